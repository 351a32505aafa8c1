"""The codecs of docs/format.md, section 6: from an opened blob to the chunk."""

import datetime

import zstandard

MASK = (1 << 64) - 1


class Malformed(Exception):
    """Bytes that are not what docs/format.md says."""


def require(condition, what):
    if not condition:
        raise Malformed(what)


def unzstd(frame, length, base=None):
    """One zstd frame of `length` plain bytes, without content size, checksum, dictionary."""
    about = zstandard.get_frame_parameters(frame)
    require(about.content_size == zstandard.CONTENTSIZE_UNKNOWN, "a zstd frame with a content size")
    require(not about.has_checksum, "a zstd frame with a checksum")
    require(about.dict_id == 0, "a zstd frame with a dictionary")
    kind = zstandard.DICT_TYPE_RAWCONTENT
    prefix = None if base is None else zstandard.ZstdCompressionDict(base, dict_type=kind)
    decompressor = zstandard.ZstdDecompressor(dict_data=prefix, max_window_size=1 << 27)
    try:
        # A byte more, so that a longer frame shows.
        plain = decompressor.decompress(
            frame, max_output_size=length + 1, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Malformed(f"zstd: {error}") from error
    require(len(plain) == length, f"a zstd frame of {len(plain)} bytes instead of {length}")
    return plain


def decode(codec, encoded, length, base=None):
    if codec == 0:
        chunk = encoded
    elif codec == 1:
        chunk = unzstd(encoded, length)
    elif codec == 2:
        chunk = Columnar(encoded, length).chunk()
    elif codec == 3:
        chunk = unzstd(encoded, length, base)
    else:
        raise Malformed(f"codec {codec}")
    require(len(chunk) == length, f"a chunk of {len(chunk)} bytes instead of {length}")
    return chunk


class Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        require(length <= len(self.data) - self.at, "bytes are missing")
        self.at += length
        return self.data[self.at - length : self.at]

    def byte(self):
        return self.take(1)[0]

    def rest(self):
        return self.take(len(self.data) - self.at)

    def end(self, what):
        require(self.at == len(self.data), f"bytes are left over in {what}")

    def number(self):
        """LEB128, 64 bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        require(value <= MASK, "a number of more than 64 bits")
        require(byte != 0 or shift == 0, "a number that is longer than it need be")
        return value

    def signed(self):
        return unzigzag(self.number())

    def literal(self):
        return self.take(self.number())


def unzigzag(value):
    return value >> 1 ^ -(value & 1)


def wrapped(value):
    """As 64 bits in two's complement."""
    return (value + (1 << 63) & MASK) - (1 << 63)


class Columnar:
    """Codec 2: rows stored by columns."""

    def __init__(self, encoded, length):
        self.length = length
        whole = Bytes(encoded)
        meta_len, text_len, stored_len = whole.number(), whole.number(), whole.number()
        require(meta_len + text_len <= 2 * length + 65536, "too much meta and text")
        front = whole.take(stored_len)
        if stored_len != meta_len + text_len:
            front = unzstd(front, meta_len + text_len)
        self.meta, self.text = Bytes(front[:meta_len]), Bytes(front[meta_len:])
        self.streams = Bytes(whole.rest())
        self.stream_bytes = self.values = self.columns = 0

    def chunk(self):
        meta = self.meta
        columns = meta.number()
        opening, between, closing = b"", b"\t", b"\n"
        if columns == 0:
            columns = meta.number()
            opening, between, closing = meta.literal(), meta.literal(), meta.literal()
        rows = meta.number()
        require(columns >= 1 and rows * columns <= self.length, "too many rows")
        pieces, place = [], 0
        for _ in range(meta.number()):
            place += meta.number()
            length = meta.number()
            require(length > 0 and place <= rows, "a piece that can't be")
            pieces.append((place, length))
        pieces = [(place, self.text.take(length)) for place, length in pieces]
        table = [self.column(rows, 0) for _ in range(columns)]
        self.meta.end("meta")
        self.text.end("text")
        self.streams.end("streams")
        out, next_piece = [], 0
        for row in range(rows + 1):
            while next_piece < len(pieces) and pieces[next_piece][0] == row:
                out.append(pieces[next_piece][1])
                next_piece += 1
            if row < rows:
                out += [opening, between.join(column[row] for column in table), closing]
        return b"".join(out)

    def column(self, n, depth):
        self.values += n
        self.columns += 1
        require(depth <= 6 and self.columns <= 4096, "too many columns")
        require(self.values <= 8 * self.length + 65536, "too many values")
        meta, kind = self.meta, self.meta.byte()
        if kind == 0:
            return self.texts(n)
        if kind == 1:
            return [meta.literal()] * n
        if kind == 2:
            form = self.form()
            literal = meta.literal()
            return [form(number) + literal for number in self.sequence(n)]
        if kind == 3:
            entries = meta.number()
            require(entries <= 256, "too many entries")
            texts = self.texts(entries)
            stream = self.stream(n)
            require(all(number < entries for number in stream), "no such entry")
            return [texts[number] for number in stream]
        if kind == 4:
            return self.templates(n, depth)
        if kind in (5, 8):
            digits = meta.byte()
            require(digits % 2 == 0, "an odd number of digits")
            planes = self.stream(n * (digits // 2))
            texts = (bytes(planes[i::n]).hex() for i in range(n))
            return [(text if kind == 5 else text.upper()).encode() for text in texts]
        if kind == 6:
            literal = meta.literal()
            stream = self.stream(n)
            others = iter(self.column(n - stream.count(0), depth + 1))
            return [next(others) if byte else literal for byte in stream]
        if kind == 7:
            before, after = meta.literal(), meta.literal()
            return [before + value + after for value in self.column(n, depth + 1)]
        raise Malformed(f"a column of kind {kind}")

    def texts(self, n):
        end = bytes([self.meta.byte()])
        *texts, rest = self.text.take(self.meta.number()).split(end)
        require(len(texts) == n and not rest, "texts that do not fit their number")
        return texts

    def templates(self, n, depth):
        meta, templates = self.meta, []
        count = meta.number()
        require(count <= 32, "too many templates")
        for _ in range(count):
            words = meta.number()
            require(words <= 48, "too many words")
            templates.append([meta.literal() for _ in range(words + 1)])
        stream = self.stream(n)
        require(all(number <= count for number in stream), "no such template")
        values = []
        for number, literals in enumerate(templates):
            of = stream.count(number)
            table = [self.column(of, depth + 1) for _ in range(len(literals) - 1)]
            rows = []
            for row in range(of):
                words = (column[row] + after for column, after in zip(table, literals[1:]))
                rows.append(literals[0] + b"".join(words))
            values.append(iter(rows))
        values.append(iter(self.column(stream.count(count), depth + 1)))
        return [next(values[number]) for number in stream]

    def stream(self, n):
        mode = self.meta.byte()
        if mode == 0:
            return self.streams.take(n)
        if mode == 1:
            self.stream_bytes += n
            require(self.stream_bytes <= 8 * self.length + 65536, "too much in streams")
            return unzstd(self.streams.take(self.meta.number()), n)
        if mode == 2:
            return bytes([self.meta.byte()]) * n
        raise Malformed(f"a stream of mode {mode}")

    def planes(self, n):
        width = self.meta.byte()
        require(width <= 8, "numbers of more than 8 bytes")
        streams = [self.stream(n) for _ in range(width)]
        return [sum(s[i] << 8 * place for place, s in enumerate(streams)) for i in range(n)]

    def sequence(self, n):
        way, first = self.meta.byte(), self.meta.signed()
        if way == 0:
            step = self.meta.signed()
            return [wrapped(first + i * step) for i in range(n)]
        if way == 1:
            return [wrapped(first + plane) for plane in self.planes(n)]
        if way == 2:
            require(n > 0, "a first number of none")
            numbers = [first]
            for plane in self.planes(n - 1):
                numbers.append(wrapped(numbers[-1] + unzigzag(plane)))
            return numbers
        raise Malformed(f"a sequence of way {way}")

    def form(self):
        form = self.meta.byte()
        if form == 0:
            return lambda number: str(number).encode()
        if form == 1:
            digits = self.meta.byte()
            require(1 <= digits <= 18, "digits")
            return lambda number: fixed(number, digits)
        if form == 2:
            scale = self.meta.byte()
            require(1 <= scale <= 18, "scale")
            return lambda number: decimal(number, scale)
        if form == 3:
            return date
        if form == 4:
            between, fraction = bytes([self.meta.byte()]), self.meta.byte()
            require(fraction <= 6 or fraction == 255, "fraction")
            return lambda number: time(number, between, fraction)
        raise Malformed(f"a form {form}")


def fixed(number, digits):
    text = f"{number:0{digits}d}"
    require(number >= 0 and len(text) == digits, "a number of more digits")
    return text.encode()


def decimal(number, scale):
    whole, part = divmod(abs(number), 10**scale)
    return f"{'-' if number < 0 else ''}{whole}.{part:0{scale}d}".encode()


def date(days):
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=days)).isoformat().encode()
    except OverflowError as error:
        raise Malformed("a date beyond the calendar") from error


def time(units, between, fraction):
    digits = 6 if fraction == 255 else fraction
    seconds, part = divmod(units, 10**digits)
    days, second = divmod(seconds, 86400)
    clock = f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    tail = f".{part:0{digits}d}" if digits else ""
    if fraction == 255:
        tail = tail.rstrip("0").rstrip(".")
    return date(days) + between + (clock + tail).encode()
