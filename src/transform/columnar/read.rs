//! Bytes to rows: every column is a cursor that gives its next value; row by row they write the chunk.

use super::numbers::{Day, Form, TEXT_MAX};
use super::words::{SHAPES_MAX, WORDS_MAX};
use super::write::{binary_max, text_max, values_max};
use super::{COLUMNS_MAX, DEPTH_MAX, Decompressor, kind, mode};

/// What is wrong, where a text for it would cost.
type Quick = Result<(), &'static str>;

/// Decodes `encoded` into exactly `out`.
pub(super) fn read(decompressor: &mut Decompressor, encoded: &[u8], out: &mut [u8]) -> Result<(), String> {
    let raw_len = out.len();
    let mut front = Cursor(encoded);
    let (meta_len, text_len, stored) = (front.length()?, front.length()?, front.length()?);
    let plain_len = meta_len.checked_add(text_len).filter(|len| *len <= text_max(raw_len)).ok_or("too much text")?;
    let body = front.take(stored)?;
    let mut plain = Vec::new();
    let plain = if stored == plain_len {
        body
    } else {
        plain.resize(plain_len, 0);
        decompressor.decompress(body, &mut plain)?;
        &plain[..]
    };
    let (meta, text) = plain.split_at(meta_len);
    let mut parts = Parts {
        meta: Cursor(meta),
        text: Cursor(text),
        streams: front,
        decompressor,
        binary_left: binary_max(raw_len),
        columns_left: COLUMNS_MAX,
        values_left: values_max(raw_len),
    };
    let mut columns = parts.meta.length()?;
    let mut around = [&b""[..], b"\t", b"\n"];
    if columns == 0 {
        columns = parts.meta.length()?;
        for literal in &mut around {
            *literal = parts.meta.literal()?.bytes();
        }
    }
    let (rows, pieces) = (parts.meta.length()?, parts.meta.length()?);
    if columns == 0
        || columns > raw_len
        || rows.checked_mul(columns).is_none_or(|fields| fields > raw_len)
        || pieces > raw_len
    {
        return Err(format!("{rows} rows of {columns} fields, {pieces} others in {raw_len} bytes"));
    }
    let mut odd = Vec::new();
    let mut place = 0_usize;
    for _ in 0..pieces {
        place =
            place.checked_add(parts.meta.length()?).filter(|place| *place <= rows).ok_or("a place behind the end")?;
        let len = parts.meta.length()?;
        odd.push((place, parts.text.take(len)?));
        if len == 0 {
            return Err("a piece of nothing".to_owned());
        }
    }
    let mut cursors =
        (0..columns).map(|_| parts.column(rows, DEPTH_MAX + 1)).collect::<Result<Vec<Column<'_>>, String>>()?;
    if !(parts.meta.0.is_empty() && parts.text.0.is_empty() && parts.streams.0.is_empty()) {
        return Err("bytes are left over".to_owned());
    }
    let mut out = Out { bytes: out, at: 0 };
    // A byte that is known beforehand is written faster than a literal.
    match around {
        [b"", b"\t", b"\n"] => write(&mut out, &mut cursors, rows, &odd, [b"", b"\t", b"\n"])?,
        around => write(&mut out, &mut cursors, rows, &odd, around)?,
    }
    if !cursors.iter().all(Column::is_done) {
        return Err("texts are left over".to_owned());
    }
    if out.at == raw_len { Ok(()) } else { Err(format!("{} bytes instead of {raw_len}", out.at)) }
}

/// Writes all rows, each with what is in front of it, between its values and behind it; and what is odd at its places.
#[allow(clippy::inline_always, reason = "with tabs that are known beforehand, lines are decoded a tenth faster")]
#[inline(always)]
fn write(
    out: &mut Out<'_>,
    cursors: &mut [Column<'_>],
    rows: usize,
    odd: &[(usize, &[u8])],
    [opening, between, closing]: [&[u8]; 3],
) -> Quick {
    let mut odd = odd.iter().peekable();
    for row in 0..=rows {
        while let Some((_, piece)) = odd.next_if(|(place, _)| *place == row) {
            out.copy(piece)?;
        }
        if row == rows {
            break;
        }
        out.copy(opening)?;
        for (at, column) in cursors.iter_mut().enumerate() {
            if at > 0 {
                out.copy(between)?;
            }
            column.put(out)?;
        }
        out.copy(closing)?;
    }
    Ok(())
}

/// What is written so far; nothing goes beyond the end.
struct Out<'o> {
    bytes: &'o mut [u8],
    at: usize,
}

impl Out<'_> {
    /// The next `len` bytes.
    fn take(&mut self, len: usize) -> Result<&mut [u8], &'static str> {
        let taken = self.bytes.get_mut(self.at..self.at + len).ok_or("more bytes than the chunk has")?;
        self.at += len;
        Ok(taken)
    }

    fn copy(&mut self, bytes: &[u8]) -> Quick {
        self.take(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// Most pieces are short: where there is room on both sides, more is copied than the piece has, whatever its length.
    #[inline]
    fn put(&mut self, piece: Piece<'_>) -> Quick {
        if self.copy_more::<16>(piece) { Ok(()) } else { self.put_long(piece) }
    }

    fn put_long(&mut self, piece: Piece<'_>) -> Quick {
        if self.copy_more::<32>(piece) { Ok(()) } else { self.copy(piece.bytes()) }
    }

    #[inline]
    fn copy_more<const N: usize>(&mut self, piece: Piece<'_>) -> bool {
        if piece.len <= N
            && let Some(from) = piece.from.first_chunk::<N>()
            && let Some(into) = self.bytes.get_mut(self.at..).and_then(|room| room.first_chunk_mut::<N>())
        {
            *into = *from;
            self.at += piece.len;
            return true;
        }
        false
    }

    #[inline]
    fn number(&mut self, form: Form, number: i64, day: &mut Day) -> Quick {
        if let Some((text, len)) = form.short(number)
            && let Some(room) = self.bytes.get_mut(self.at..).and_then(|room| room.first_chunk_mut())
        {
            *room = text;
            self.at += len;
            return Ok(());
        }
        if let Some(room) = self.bytes.get_mut(self.at..).and_then(|room| room.first_chunk_mut()) {
            self.at += form.write(number, day, room);
            return Ok(());
        }
        let mut text = [0; TEXT_MAX];
        let len = form.write(number, day, &mut text);
        self.copy(&text[..len])
    }
}

/// The first bytes of others.
#[derive(Clone, Copy)]
struct Piece<'b> {
    from: &'b [u8],
    len: usize,
}

impl<'b> Piece<'b> {
    fn bytes(self) -> &'b [u8] {
        &self.from[..self.len]
    }
}

/// Bytes that are read from their beginning.
struct Cursor<'b>(&'b [u8]);

impl<'b> Cursor<'b> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.0.split_first().ok_or("ends too early")?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, len: usize) -> Result<&'b [u8], String> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err("a number of too many bytes".to_owned())
    }

    fn length(&mut self) -> Result<usize, String> {
        usize::try_from(self.varint()?).map_err(|_| "a length beyond memory".to_owned())
    }

    fn signed(&mut self) -> Result<i64, String> {
        self.varint().map(unzigzag)
    }

    fn literal(&mut self) -> Result<Piece<'b>, String> {
        let len = self.length()?;
        let from = self.0;
        self.take(len)?;
        Ok(Piece { from, len })
    }
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

/// The three parts of the form, and what may still be taken of memory.
struct Parts<'p> {
    meta: Cursor<'p>,
    text: Cursor<'p>,
    streams: Cursor<'p>,
    decompressor: &'p mut Decompressor,
    binary_left: usize,
    columns_left: usize,
    values_left: usize,
}

/// A column that gives its values one after the other.
enum Column<'c> {
    Text(Lines<'c>),
    Constant(Piece<'c>),
    Numbers(Box<Numbers<'c>>),
    Dictionary { entries: Vec<Piece<'c>>, index: Stream<'c>, at: usize },
    Templates { shapes: Vec<Shape<'c>>, which: Stream<'c>, at: usize, others: Box<Self> },
    Hex { bytes: Stream<'c>, values: usize, digits: usize, alphabet: &'static [u8; 16], at: usize },
    Nullable { null: Piece<'c>, present: Stream<'c>, at: usize, inner: Box<Self> },
    Affixes { prefix: Piece<'c>, suffix: Piece<'c>, inner: Box<Self> },
}

struct Shape<'c> {
    literals: Vec<Piece<'c>>,
    slots: Vec<Column<'c>>,
}

/// Values that end in a byte.
struct Lines<'c> {
    rest: &'c [u8],
    end: u8,
}

impl<'c> Lines<'c> {
    #[inline]
    fn next(&mut self) -> Result<Piece<'c>, &'static str> {
        let len = match self.rest.first_chunk().and_then(|first| place(*first, self.end)) {
            Some(len) => len,
            None => memchr::memchr(self.end, self.rest).ok_or("a text has too few values")?,
        };
        let from = self.rest;
        self.rest = &self.rest[len + 1..];
        Ok(Piece { from, len })
    }
}

/// Where the first `wanted` is: of so few bytes that costs less in place than a call.
#[inline]
fn place(bytes: [u8; 8], wanted: u8) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let zero_there = u64::from_le_bytes(bytes) ^ (ONES * u64::from(wanted));
    // The lowest of these bits is that of the first zero byte (Mycroft's).
    let bits = zero_there.wrapping_sub(ONES) & !zero_there & (ONES << 7);
    (bits != 0).then(|| bits.trailing_zeros() as usize / 8)
}

/// A binary stream.
enum Stream<'c> {
    Constant(u8),
    Stored(&'c [u8]),
    Decoded(Vec<u8>),
}

impl Stream<'_> {
    fn at(&self, place: usize) -> u8 {
        match self {
            Self::Constant(byte) => *byte,
            Self::Stored(bytes) => bytes[place],
            Self::Decoded(bytes) => bytes[place],
        }
    }
}

/// Numbers that are worked out from their planes so many at a time.
const BLOCK: usize = 32;

struct Numbers<'c> {
    form: Form,
    suffix: Piece<'c>,
    day: Day,
    planes: Vec<Stream<'c>>,
    /// Values of each plane.
    values: usize,
    /// The next number, the number before the block, or the least of all.
    base: i64,
    step: Step,
    at: usize,
    block: [i64; BLOCK],
}

enum Step {
    /// Always the same.
    Always(i64),
    /// From the least.
    Offset,
    /// From the one before.
    Delta,
}

impl Numbers<'_> {
    #[inline]
    fn next(&mut self) -> i64 {
        if let Step::Always(step) = self.step {
            let number = self.base;
            self.base = number.wrapping_add(step);
            return number;
        }
        let place = self.at % BLOCK;
        if place == 0 {
            self.fill();
        }
        self.at += 1;
        self.block[place]
    }

    /// The block of numbers that begins at `at`.
    fn fill(&mut self) {
        let is_delta = matches!(self.step, Step::Delta);
        if !is_delta {
            let base = self.base;
            self.block = self.plane_values(self.at).map(|value| base.wrapping_add(value.cast_signed()));
            return;
        }
        // The first number is the base, and has no difference.
        let first = usize::from(self.at == 0);
        self.block[0] = self.base;
        let steps = self.plane_values(self.at - (1 - first));
        for (number, step) in self.block[first..].iter_mut().zip(steps) {
            self.base = self.base.wrapping_add(unzigzag(step));
            *number = self.base;
        }
    }

    /// So many values from `from` on as there are; what stands behind them means nothing.
    fn plane_values(&self, from: usize) -> [u64; BLOCK] {
        let mut found = [0; BLOCK];
        let until = (from + BLOCK).min(self.values);
        for (number, plane) in self.planes.iter().enumerate() {
            let shift = 8 * number;
            match plane {
                Stream::Constant(byte) => found.iter_mut().for_each(|value| *value |= u64::from(*byte) << shift),
                Stream::Stored(bytes) => add_plane(&mut found, &bytes[from..until], shift),
                Stream::Decoded(bytes) => add_plane(&mut found, &bytes[from..until], shift),
            }
        }
        found
    }
}

fn add_plane(values: &mut [u64; BLOCK], plane: &[u8], shift: usize) {
    for (value, byte) in values.iter_mut().zip(plane) {
        *value |= u64::from(*byte) << shift;
    }
}

impl<'p> Parts<'p> {
    /// The column of `values` values that comes next.
    fn column(&mut self, values: usize, depth: u8) -> Result<Column<'p>, String> {
        let depth = depth.checked_sub(1).ok_or("columns within columns without end")?;
        self.columns_left = self.columns_left.checked_sub(1).ok_or("too many columns")?;
        self.values_left = self.values_left.checked_sub(values).ok_or("too many values")?;
        Ok(match self.meta.byte()? {
            kind::TEXT => Column::Text(self.text()?),
            kind::CONSTANT => Column::Constant(self.meta.literal()?),
            kind::NUMBERS => {
                let form = Form::decode(|| self.meta.byte())?;
                let suffix = self.meta.literal()?;
                Column::Numbers(Box::new(self.numbers(form, suffix, values)?))
            }
            kind::DICTIONARY => {
                let n = self.meta.length()?;
                let mut text = self.text()?;
                if n > 256 {
                    return Err(format!("a dictionary of {n} entries"));
                }
                let entries = (0..n).map(|_| text.next()).collect::<Result<Vec<_>, _>>()?;
                if !text.rest.is_empty() {
                    return Err("entries are left over".to_owned());
                }
                Column::Dictionary { entries, index: self.stream(values)?, at: 0 }
            }
            kind::TEMPLATES => self.templates(values, depth)?,
            kind @ (kind::HEX | kind::HEX_UPPER) => {
                let alphabet = if kind == kind::HEX { b"0123456789abcdef" } else { b"0123456789ABCDEF" };
                let digits = usize::from(self.meta.byte()?);
                if digits % 2 != 0 {
                    return Err(format!("{digits} hexadecimal digits"));
                }
                let len = values.checked_mul(digits / 2).ok_or("too many digits")?;
                Column::Hex { bytes: self.stream(len)?, values, digits, alphabet, at: 0 }
            }
            kind::NULLABLE => {
                let null = self.meta.literal()?;
                let present = self.stream(values)?;
                let left = (0..values).filter(|at| present.at(*at) != 0).count();
                Column::Nullable { null, present, at: 0, inner: Box::new(self.column(left, depth)?) }
            }
            kind::AFFIXES => {
                let (prefix, suffix) = (self.meta.literal()?, self.meta.literal()?);
                Column::Affixes { prefix, suffix, inner: Box::new(self.column(values, depth)?) }
            }
            other => return Err(format!("unknown kind {other} of columns")),
        })
    }

    fn templates(&mut self, values: usize, depth: u8) -> Result<Column<'p>, String> {
        let n = self.meta.length()?;
        if n > SHAPES_MAX {
            return Err(format!("{n} templates"));
        }
        let mut shapes = Vec::with_capacity(n);
        let mut slots = Vec::with_capacity(n);
        for _ in 0..n {
            let words = self.meta.length()?;
            if words > WORDS_MAX {
                return Err(format!("a template of {words} words"));
            }
            let literals = (0..=words).map(|_| self.meta.literal()).collect::<Result<Vec<_>, _>>()?;
            shapes.push(Shape { literals, slots: Vec::with_capacity(words) });
            slots.push(words);
        }
        let which = self.stream(values)?;
        let mut counts = [0; SHAPES_MAX + 1];
        for at in 0..values {
            let which = usize::from(which.at(at));
            *counts.get_mut(which).filter(|_| which <= n).ok_or("a template that is not there")? += 1;
        }
        for (number, shape) in shapes.iter_mut().enumerate() {
            for _ in 0..slots[number] {
                shape.slots.push(self.column(counts[number], depth)?);
            }
        }
        Ok(Column::Templates { shapes, which, at: 0, others: Box::new(self.column(counts[n], depth)?) })
    }

    fn text(&mut self) -> Result<Lines<'p>, String> {
        let end = self.meta.byte()?;
        let len = self.meta.length()?;
        Ok(Lines { rest: self.text.take(len)?, end })
    }

    fn numbers(&mut self, form: Form, suffix: Piece<'p>, values: usize) -> Result<Numbers<'p>, String> {
        let way = self.meta.byte()?;
        let base = self.meta.signed()?;
        let (step, values) = match way {
            0 => (Step::Always(self.meta.signed()?), 0),
            1 => (Step::Offset, values),
            2 => (Step::Delta, values.saturating_sub(1)),
            other => return Err(format!("unknown way {other} of numbers")),
        };
        let planes = if way == 0 { Vec::new() } else { self.planes(values)? };
        Ok(Numbers { form, suffix, day: Day::default(), planes, values, base, step, at: 0, block: [0; BLOCK] })
    }

    fn planes(&mut self, values: usize) -> Result<Vec<Stream<'p>>, String> {
        let width = self.meta.byte()?;
        if width > 8 {
            return Err(format!("numbers of {width} bytes"));
        }
        (0..width).map(|_| self.stream(values)).collect()
    }

    fn stream(&mut self, len: usize) -> Result<Stream<'p>, String> {
        match self.meta.byte()? {
            mode::CONSTANT => Ok(Stream::Constant(self.meta.byte()?)),
            mode::RAW => Ok(Stream::Stored(self.streams.take(len)?)),
            mode::ZSTD => {
                let stored = self.meta.length()?;
                let frame = self.streams.take(stored)?;
                self.binary_left = self.binary_left.checked_sub(len).ok_or("too many binary bytes")?;
                let mut bytes = vec![0; len];
                self.decompressor.decompress(frame, &mut bytes)?;
                Ok(Stream::Decoded(bytes))
            }
            other => Err(format!("unknown mode {other} of streams")),
        }
    }
}

impl Column<'_> {
    /// Whether all texts were taken.
    fn is_done(&self) -> bool {
        match self {
            Self::Text(lines) => lines.rest.is_empty(),
            Self::Templates { shapes, others, .. } => {
                others.is_done() && shapes.iter().flat_map(|shape| &shape.slots).all(Self::is_done)
            }
            Self::Nullable { inner, .. } | Self::Affixes { inner, .. } => inner.is_done(),
            Self::Constant(_) | Self::Numbers(_) | Self::Dictionary { .. } | Self::Hex { .. } => true,
        }
    }

    /// Writes the next value.
    fn put(&mut self, out: &mut Out<'_>) -> Quick {
        match self {
            Self::Text(lines) => out.put(lines.next()?),
            Self::Constant(value) => out.put(*value),
            Self::Numbers(numbers) => {
                let number = numbers.next();
                out.number(numbers.form, number, &mut numbers.day)?;
                if numbers.suffix.len > 0 { out.put(numbers.suffix) } else { Ok(()) }
            }
            Self::Dictionary { entries, index, at } => {
                let entry = usize::from(index.at(*at));
                *at += 1;
                out.put(*entries.get(entry).ok_or("an entry that is not there")?)
            }
            Self::Templates { shapes, which, at, others } => {
                let which = usize::from(which.at(*at));
                *at += 1;
                let Some(Shape { literals, slots }) = shapes.get_mut(which) else { return others.put(out) };
                let (first, behind) = literals.split_first().ok_or("a template of nothing")?;
                out.put(*first)?;
                for (slot, literal) in slots.iter_mut().zip(behind) {
                    slot.put(out)?;
                    out.put(*literal)?;
                }
                Ok(())
            }
            Self::Hex { bytes, values, digits, alphabet, at } => {
                let row = *at;
                *at += 1;
                for (plane, pair) in out.take(*digits)?.chunks_exact_mut(2).enumerate() {
                    let byte = bytes.at(plane * *values + row);
                    pair.copy_from_slice(&[alphabet[usize::from(byte >> 4)], alphabet[usize::from(byte & 15)]]);
                }
                Ok(())
            }
            Self::Nullable { null, present, at, inner } => {
                let is_present = present.at(*at) != 0;
                *at += 1;
                if is_present { inner.put(out) } else { out.put(*null) }
            }
            Self::Affixes { prefix, suffix, inner } => {
                out.put(*prefix)?;
                inner.put(out)?;
                out.put(*suffix)
            }
        }
    }
}
