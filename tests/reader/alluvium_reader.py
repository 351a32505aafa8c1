"""A second reader of Alluvium repositories, written from docs/format.md alone.

    alluvium_reader.py REPOSITORY OUT

Opens a local repository with the passphrase or the line of a key file in ALLUVIUM_PASSWORD, checks
everything that the page says a reader checks, and restores every snapshot:

    OUT/<snapshot>/stream         the whole stream, where there is one
    OUT/<snapshot>/files/<path>   a snapshot of files: files, folders, links

It prints one JSON document about what it found. It is strict: the first thing that is damaged,
forged, or not in the form that the page gives ends it with exit code 1. Sections are those of
docs/format.md.
"""

import json
import os
import re
import struct
import sys

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from nacl.exceptions import CryptoError

from blob_codecs import Bytes, Malformed, decode, require
from sealing import XWing, associated_data, open_seal, signing_public, verify_signature

EMPTY_DIGEST = {"bytes": 0, "blake3": blake3(b"").hexdigest()}
KEY_FILE = re.compile(rb"alluvium-key-1:([0-9a-fA-F]{64})\s*")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")

# The most bytes of an object (section 4).
LIMITS = {
    "config": 1 << 16, "keys": 1 << 16, "slots": 1 << 16, "sessions": 1 << 16, "epochs": 1 << 24,
    "packs": 1 << 30, "index": (1 << 28) + 1024, "snapshots": 1 << 26, "prune": 1 << 26,
}


# --- JSON (section 2) --------------------------------------------------------------------------


def written(value):
    """JSON in the form in which a writer writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def read_json(data, where):
    """JSON in exactly the written form."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Malformed(f"{where}: {error}") from error
    require(written(value) == data, f"{where}: not in the written form")
    return value


def fields(value, names, where):
    """Checks the fields of an object and their order; `?` marks those that may be left out."""
    require(isinstance(value, dict), f"{where}: no object")
    names = names.split()
    known = [name.rstrip("?") for name in names]
    unknown = [name for name in value if name not in known]
    require(not unknown, f"{where}: unknown fields {unknown}")
    missing = [name for name in names if name[-1] != "?" and name not in value]
    require(not missing, f"{where}: missing fields {missing}")
    ordered = [name for name in known if name in value]
    require(list(value) == ordered, f"{where}: fields in another order: {list(value)}")
    return value


def digits(text, length, where):
    require(isinstance(text, str) and re.fullmatch(r"(?:[0-9a-f]{2})*", text), f"{where}: no hex")
    data = bytes.fromhex(text)
    require(length is None or len(data) == length, f"{where}: {len(data)} bytes")
    return data


def time_of(text, where):
    require(isinstance(text, str) and TIME.fullmatch(text), f"{where}: no time: {text!r}")
    fraction = text[19:-1]
    require(not fraction.endswith("0"), f"{where}: zeros at the end of {text}")
    return text


# --- Binary objects ----------------------------------------------------------------------------


class Fields(Bytes):
    """Binary fields, little-endian."""

    def u32(self):
        return struct.unpack("<I", self.take(4))[0]

    def u64(self):
        return struct.unpack("<Q", self.take(8))[0]

    def i64(self):
        return struct.unpack("<q", self.take(8))[0]

    def magic(self, magic, where):
        require(self.take(8) == magic, f"{where}: no {magic.decode()}")
        require(struct.unpack("<H", self.take(2))[0] == 1, f"{where}: another version")


class Entry:
    """A blob in a pack."""

    def __init__(self, data):
        self.blob, self.codec = data.take(32), data.byte()
        self.plain, self.stored = data.u32(), data.u32()
        self.base, self.version = None, 0
        require(self.codec <= 3, f"codec {self.codec}")
        require(1 <= self.plain <= 1 << 24, f"a chunk of {self.plain} bytes")
        require(40 < self.stored <= (1 << 24) + 1024, f"a blob of {self.stored} bytes")
        if self.codec == 3:
            self.base, self.version = data.take(32), data.byte()
            require(1 <= self.version <= 62, f"version {self.version}")

    def __eq__(self, other):
        return vars(self) == vars(other)

    def sealed_name(self, data_key):
        name = data_key + self.blob + struct.pack("<BI", self.codec, self.plain)
        return name + (self.base + bytes([self.version]) if self.base else b"")


def entries_of(data):
    count = data.u32()
    require(count <= 131072, "too many blobs")
    return [Entry(data) for _ in range(count)]


def padme(length):
    e = length.bit_length() - 1
    s = e.bit_length()
    mask = (1 << e - s) - 1
    return length + mask & ~mask


# --- The repository ----------------------------------------------------------------------------


class Repository:
    def __init__(self, folder, secret):
        self.folder = folder
        self.facts = {}
        self.read_config()
        self.open_slot(secret)
        self.judge_config()
        self.judge_epochs()
        self.judge_certificates()
        self.judge_slot()
        self.open_parameters()
        self.take_epoch_secrets()

    def get(self, name):
        limit = LIMITS[name.split("/")[0]]
        with open(os.path.join(self.folder, name), "rb") as file:
            data = file.read(limit + 1)
        require(len(data) <= limit, f"{name}: more than {limit} bytes")
        return data

    def list(self, folder, pattern):
        path = os.path.join(self.folder, folder)
        names = sorted(os.listdir(path)) if os.path.isdir(path) else []
        return [name for name in names if re.fullmatch(pattern, name)]

    def data(self, kind, name):
        return associated_data(kind, self.id, name)

    # Steps 1 to 3: config and slot

    def read_config(self):
        raw = self.get("config")
        config = json.loads(raw)
        require(config.get("magic") == "alluvium repository", "config: no repository")
        require(config.get("version") == 1, "config: another version")
        unknown = set(config.get("required_features", ["?"])) - {"single-writer"}
        require(not unknown, f"config: unknown features {unknown}")
        names = "magic version required_features repository authority sealed signature"
        self.config = fields(read_json(raw, "config"), names, "config")
        self.id = digits(config["repository"], 16, "repository")

    def open_slot(self, secret):
        key_file = KEY_FILE.fullmatch(secret)
        for name in self.list("keys", "[0-9a-f]{32}"):
            raw = self.get(f"keys/{name}")
            slot = json.loads(raw)
            require(slot.get("magic") == "alluvium key slot", f"{name}: no slot")
            require(slot.get("version") == 1, f"{name}: another version")
            slot = fields(read_json(raw, name), "magic version repository kdf sealed", name)
            if slot["repository"] != self.config["repository"]:
                continue
            kdf = slot["kdf"]
            if kdf.get("name") == "key-file":
                fields(kdf, "name", "kdf")
                if not key_file:
                    continue
                material = bytes.fromhex(key_file[1].decode())
                key = blake3(material, derive_key_context="alluvium v1 key file").digest()
            else:
                require(kdf.get("name") == "argon2id", "an unknown key derivation")
                fields(kdf, "name memory_kib passes lanes salt", "kdf")
                if key_file:
                    continue
                salt = digits(kdf["salt"], 16, "salt")
                costs = kdf["passes"], kdf["memory_kib"], kdf["lanes"]
                require(1 <= costs[0] <= 64 and 1 <= costs[2] <= 64, "costs")
                require(8 * costs[2] <= costs[1] <= 4194304, "costs")
                key = hash_secret_raw(secret, salt, *costs, 32, Type.ID, version=0x13)
            slot_id = bytes.fromhex(name)
            try:
                opened = open_seal(key, self.data(2, slot_id), digits(slot["sealed"], None, name))
            except CryptoError:
                continue
            self.slot, self.slot_bytes = name, raw
            names = "chunk_id chunker_seed index authority sealing signing epochs"
            keys = fields(read_json(opened, "keys"), names, "keys")
            self.slot_epochs = keys.pop("epochs")
            self.keys = {
                field: digits(value, 32, field) for field, value in keys.items()
            }
            return
        raise Malformed("no slot opens")

    def judge_config(self):
        config = self.config
        self.authority = digits(config["authority"], 32, "authority")
        require(self.authority == self.keys["authority"], "config: another authority")
        unsigned = written({**config, "signature": "0" * 128})
        signature = digits(config["signature"], 64, "signature")
        verify_signature(self.authority, b"alluvium v1 config" + unsigned, signature)

    def open_parameters(self):
        index, data = self.keys["index"], self.data(1, b"config")
        opened = open_seal(index, data, digits(self.config["sealed"], None, "config"))
        names = "version required_features chunks recipes pack_bytes"
        parameters = fields(read_json(opened, "parameters"), names, "parameters")
        for field in ("chunks", "recipes"):
            fields(parameters[field], "min average max", field)
        for field in ("version", "required_features"):
            require(parameters[field] == self.config[field], f"config: {field} was altered")

    # Claims and orders

    def envelope(self, kind, name, raw=None):
        raw = Fields(self.get(name) if raw is None else raw)
        raw.magic(b"ALVMSEAL", name)
        require(raw.byte() == kind, f"{name}: another kind")
        data = self.data(kind, name.encode())
        return open_seal(self.keys["index"], data, raw.rest()), data

    def order(self, kind, name, raw=None):
        """Opens an order: the epoch that it names, its content, and what verifies it."""
        opened, data = self.envelope(kind, name, raw)
        order = Fields(opened)
        head, signature, content = order.take(4), order.take(64), order.rest()
        message = b"alluvium v1 signature" + head + blake3(content).digest() + data

        def verify(authority):
            verify_signature(authority, message, signature)

        return struct.unpack("<I", head)[0], content, verify

    def claim(self, opened, data, where):
        """Verifies a claim: its author, its time, its content."""
        claim = Fields(opened)
        head, signature, content = claim.take(24), claim.take(64), claim.rest()
        author, time = head[:16].hex(), struct.unpack("<q", head[16:])[0]
        require(author in self.certificates, f"{where}: the author has no certificate that counts")
        message = b"alluvium v1 signature" + head + blake3(content).digest() + data
        verify_signature(self.certificates[author]["signing"], message, signature)
        return author, time, content

    # Epochs, certificates, the slot

    def judge_epochs(self):
        self.epochs = {}
        for name in self.list("epochs", "[0-9]{8}"):
            number, named = int(name), f"epochs/{name}"
            require(number >= 1, f"{named}: no number of an epoch")
            by, content, verify = self.order(12, named)
            names = "previous created public authority certificates secrets"
            epoch = fields(read_json(content, named), names, named)
            time_of(epoch["created"], named)
            digits(epoch["public"], 1216, named)
            authority = digits(epoch["authority"], 32, named)
            for one in epoch["certificates"]:
                fields(one, "slot digest", named)
                digits(one["digest"], 32, named)
            slots = [one["slot"] for one in epoch["certificates"]]
            require(slots == sorted(set(slots)), f"{named}: certificates in another order")
            for one in epoch["secrets"]:
                fields(one, "slot kem_output sealed", named)
            require(by == (epoch["previous"] or 1), f"{named}: the order names another epoch")
            if not self.epochs:
                require((number, epoch["previous"]) == (1, 0), f"{named}: not the first epoch")
                require(authority == self.authority, f"{named}: another authority")
                require(not epoch["certificates"] and not epoch["secrets"], f"{named}: not empty")
                verify(authority)
            else:
                require(epoch["previous"] == max(self.epochs), f"{named}: another predecessor")
                verify(bytes.fromhex(self.epochs[epoch["previous"]]["authority"]))
            self.epochs[number] = epoch
        require(self.epochs, "no epoch")

    def judge_certificates(self):
        self.certificates = {}
        for name in self.list("slots", "[0-9a-f]{32}"):
            named = f"slots/{name}"
            by, content, verify = self.order(11, named)
            require(by in self.epochs, f"{named}: of no epoch that counts")
            verify(bytes.fromhex(self.epochs[by]["authority"]))
            one = fields(
                read_json(content, named), "kind label created sealing signing key", named
            )
            require(one["kind"] in ("full", "write-only"), f"{named}: an unknown kind")
            time_of(one["created"], named)
            digest = {"slot": name, "digest": blake3(content).hexdigest()}
            if not all(digest in e["certificates"] for n, e in self.epochs.items() if n > by):
                continue
            self.certificates[name] = {
                "kind": one["kind"],
                "label": one["label"],
                "epoch": by,
                "sealing": digits(one["sealing"], 1216, named),
                "signing": digits(one["signing"], 32, named),
                "key": digits(one["key"], 32, named),
            }

    def judge_slot(self):
        require(self.slot in self.certificates, "the slot has no certificate that counts")
        one = self.certificates[self.slot]
        require(one["key"] == blake3(self.slot_bytes).digest(), "another slot was certified")
        require(one["signing"] == signing_public(self.keys["signing"]), "another signing key")
        self.sealing = XWing(self.keys["sealing"])
        require(one["sealing"] == self.sealing.public, "another sealing key")
        self.full = bool(self.slot_epochs)
        require((one["kind"] == "full") == self.full, "another kind of slot")

    # Step 4

    def take_epoch_secrets(self):
        self.secrets, from_slot = {}, {}
        for one in self.slot_epochs:
            fields(one, "number secret authority", "secrets of an epoch")
            from_slot[one["number"]] = [
                digits(one["secret"], 32, "secret"), digits(one["authority"], 32, "authority")
            ]
        require(list(from_slot) == sorted(from_slot), "epochs in another order")
        full = {slot for slot, one in self.certificates.items() if one["kind"] == "full"}
        self.facts["sealed_secrets"] = 0
        for number, epoch in self.epochs.items():
            pair = from_slot.get(number)
            for one in epoch["secrets"]:
                require(one["slot"] in full, "secrets for a slot that is not full")
                if one["slot"] != self.slot or pair:
                    continue
                name = f"epochs/{number:08}".encode() + bytes.fromhex(self.slot)
                plain = self.sealing.open(
                    b"alluvium v1 epoch secret", self.data(13, name),
                    digits(one["kem_output"], 1120, name), digits(one["sealed"], 80, name),
                )
                pair = [plain[:32], plain[32:]]
                self.facts["sealed_secrets"] += 1
            if not pair:
                continue
            kem = XWing(pair[0])
            require(kem.public.hex() == epoch["public"], f"epoch {number}: another key")
            public = signing_public(pair[1]).hex()
            require(public == epoch["authority"], f"epoch {number}: another authority")
            self.secrets[number] = kem

    def unwrap(self, wrapped):
        """Opens a wrapped key: its id and the key."""
        data = Fields(wrapped)
        key_id, epoch, kem = data.take(16), data.u32(), data.byte()
        require(kem == 2, f"KEM {kem}")
        require(epoch in self.secrets, f"no secret of epoch {epoch}")
        name = self.data(3, key_id + struct.pack("<I", epoch))
        encapsulated, sealed = data.take(1120), data.take(48)
        data.end("a wrapped key")
        key = self.secrets[epoch].open(b"alluvium v1 data key", name, encapsulated, sealed)
        commitment = blake3(key, derive_key_context="alluvium v1 data key id").digest()[:16]
        require(commitment == key_id, "a data key with another id")
        return key_id, key

    # What has no use for a reader, but can be checked

    def check_generations(self):
        newest = None
        for name in self.list("prune", "[0-9]{20}"):
            named = f"prune/{name}"
            raw = self.get(named)
            second = -(-len(raw) // 8192) * 4096
            order, padding = raw[second:], raw[len(raw) - second : second]
            require(raw[: len(order)] == order and not any(padding), f"{named}: its two copies differ")
            by, content, verify = self.order(10, named, order)
            require(by in self.epochs, f"{named}: of no epoch that counts")
            verify(bytes.fromhex(self.epochs[by]["authority"]))
            names = "condemned distrusted judged forgotten removed_slots distrusted_slots"
            state = fields(read_json(content, named), names, named)
            shapes = {
                "condemned": "pack size since", "distrusted": "pack blobs",
                "removed_slots": "slot time", "distrusted_slots": "slot since",
            }
            for field, shape in shapes.items():
                for one in state[field]:
                    fields(one, shape, f"{named}: {field}")
            for one in state["distrusted"]:
                for blob in one["blobs"]:
                    digits(blob, 32, named)
            for one in state["removed_slots"]:
                time_of(one["time"], named)
            for one in state["distrusted_slots"]:
                time_of(one["since"], named)
            newest = max(newest or (0, 0, None), (by, int(name), name))
        self.facts["generation"] = newest[1] if newest else 0

    def check_sessions(self):
        authors = {}
        for name in self.list("sessions", r"[0-9a-f]{32}(\.beat)?"):
            named = f"sessions/{name}"
            by, _, content = self.claim(*self.envelope(9, named), named)
            authors[name] = by
            require(authors.get(name[:32], by) == by, f"{named}: not by the author of its session")
            beat = name.endswith(".beat")
            names = "count time generation" if beat else "host pid purpose started"
            one = fields(read_json(content, named), names, named)
            time_of(one["time" if beat else "started"], named)
            self.facts["sessions"] = self.facts.get("sessions", 0) + 1

    # Packs and index

    def read_packs(self):
        """Reads all trailers. They are what the index says again."""
        self.packs, self.copies = {}, {}
        for folder in self.list("packs", "[0-9a-f]{2}"):
            for name in self.list(f"packs/{folder}", folder + "[0-9a-f]{30}"):
                self.packs[name] = self.read_pack(f"packs/{folder}/{name}")
        for name, pack in self.packs.items():
            offset = 1231
            for entry in pack["entries"]:
                self.copies.setdefault(entry.blob, []).append((name, offset, entry))
                offset += entry.stored

    def read_pack(self, named):
        raw = self.get(named)
        header = Fields(raw[:1231])
        header.magic(b"ALVMPACK", named)
        require(header.take(16) == self.id, f"{named}: of another repository")
        session, wrapped = header.take(16), header.take(1189)
        require(raw[-8:] == b"ALVMPEND", f"{named}: no end")
        length = struct.unpack("<I", raw[-12:-8])[0]
        require(length <= 1 << 24, f"{named}: too long a trailer")
        body, trailer = raw[: -12 - length], raw[-12 - length : -12]
        data = self.data(5, named.encode() + raw[:1231])
        opened = open_seal(self.keys["index"], data, trailer)
        author, time, content = self.claim(opened, data, named)
        content = Fields(content)
        require(content.take(32) == blake3(body).digest(), f"{named}: other bytes")
        entries = entries_of(content)
        content.end(named)
        end = 1231 + sum(entry.stored for entry in entries)
        require(end <= len(body), f"{named}: blobs reach into the trailer")
        require(padme(end + length + 12) == len(raw), f"{named}: not of its Padmé length")
        return {
            "name": named, "size": len(raw), "session": session, "author": author, "time": time,
            "wrapped": wrapped, "entries": entries, "key": None,
        }

    def check_index(self):
        listed = set()
        for name in self.list("index", "[0-9a-f]{32}"):
            named = f"index/{name}"
            by, _, content = self.claim(*self.envelope(6, named), named)
            data = Fields(content)
            data.magic(b"ALVMINDX", named)
            keys = [data.take(1189) for _ in range(data.u32())]
            require(len({key[:16] for key in keys}) == len(keys), f"{named}: a key twice")
            own = set()
            for _ in range(data.u32()):
                pack_id = data.take(16).hex()
                line = {
                    "size": data.u64(), "session": data.take(16), "author": data.take(16).hex(),
                    "time": data.i64(), "wrapped": keys[data.u32()], "entries": entries_of(data),
                }
                require(pack_id not in own, f"{named}: a pack twice")
                own.add(pack_id)
                if self.certificates[by]["kind"] == "write-only":
                    require(line["author"] == by, f"{named}: a pack of another author")
                pack = self.packs.get(pack_id)
                for field, value in line.items():
                    require(pack is None or pack[field] == value, f"{named}: another {field}")
            data.end(named)
            listed |= own
        require(set(self.packs) <= listed, "packs that no index object lists")

    def data_key(self, pack):
        if pack["key"] is None:
            pack["key"] = self.unwrap(pack["wrapped"])
        return pack["key"]

    def blob(self, blob, length, below=63):
        """Reads a chunk from the copy of the lowest version."""
        copies = [copy for copy in self.copies.get(blob, ()) if copy[2].version < below]
        require(copies, f"no copy of {blob.hex()}")
        name, offset, entry = min(copies, key=lambda copy: copy[2].version)
        require(length in (None, entry.plain), f"{blob.hex()}: another length")
        pack = self.packs[name]
        key_id, key = self.data_key(pack)
        with open(os.path.join(self.folder, pack["name"]), "rb") as file:
            file.seek(offset)
            sealed = file.read(entry.stored)
        encoded = open_seal(key, self.data(4, entry.sealed_name(key_id)), sealed)
        base = self.blob(entry.base, None, entry.version) if entry.base else None
        chunk = decode(entry.codec, encoded, entry.plain, base)
        require(blake3(chunk, key=self.keys["chunk_id"]).digest() == blob, "another chunk")
        counts = self.facts.setdefault("codecs", [0, 0, 0, 0])
        counts[entry.codec] += 1
        self.facts["chain"] = max(self.facts.get("chain", 0), entry.version.bit_count())
        return chunk

    def chunks(self, recipe, where):
        """The chunks of a recipe, one after the other."""
        fields(recipe, "depth chunks", where)
        raw, depth = digits(recipe["chunks"], None, where), recipe["depth"]
        require(len(raw) % 36 == 0 and len(raw) <= 64 * 36, f"{where}: no recipe")
        require(0 <= depth <= 8, f"{where}: too deep")
        self.facts["depth"] = max(self.facts.get("depth", 0), depth)

        def expand(raw, depth):
            require(len(raw) % 36 == 0, f"{where}: no whole entries")
            for at in range(0, len(raw), 36):
                chunk = self.blob(raw[at : at + 32], *struct.unpack("<I", raw[at + 32 : at + 36]))
                if depth:
                    yield from expand(chunk, depth - 1)
                else:
                    yield chunk

        return expand(raw, depth)

    def records(self, recipe, limit, where):
        """A list of records: each chunk holds whole ones."""
        for chunk in self.chunks(recipe, where):
            require(chunk.endswith(b"\n"), f"{where}: a record in two chunks")
            for record in chunk[:-1].split(b"\n"):
                require(len(record) < limit, f"{where}: too long a record")
                yield record

    # Snapshots

    def read_snapshots(self):
        """The headers of all snapshots."""
        self.snapshots = {}
        for name in self.list("snapshots", "[0-9a-f]{32}"):
            named = f"snapshots/{name}"
            raw = Fields(self.get(named))
            if raw.data[:8] == b"ALVMFENC":
                raw.magic(b"ALVMFENC", named)
                data = self.data(14, named.encode())
                opened = open_seal(self.keys["index"], data, raw.rest())
                _, _, content = self.claim(opened, data, named)
                require(not content, f"{named}: a fence with content")
                continue
            raw.magic(b"ALVMSNAP", named)
            wrapped, length = raw.take(1189), raw.u32()
            data = self.data(7, named.encode())
            opened = open_seal(self.keys["index"], data, raw.take(length))
            author, _, content = self.claim(opened, data, named)
            sealed = raw.rest()
            names = "time series sequence bytes good_bytes previous body"
            header = fields(read_json(content, named), names, named)
            time_of(header["time"], named)
            digest = blake3(wrapped + sealed).hexdigest()
            require(header["body"] == digest, f"{named}: another body")
            self.snapshots[name] = {
                "author": author, "header": header, "wrapped": wrapped, "sealed": sealed
            }

    def open_body(self, name):
        snapshot, named = self.snapshots[name], f"snapshots/{name}"
        wrapped, header = snapshot["wrapped"], snapshot["header"]
        _, key = self.unwrap(wrapped)
        data = self.data(8, named.encode() + wrapped)
        body = read_json(open_seal(key, data, snapshot["sealed"]), named)
        names = (
            "time sequence finished zone source kind host tags previous generation tool whole "
            "shape parts engine? catalog? stored shrunk_from? original? original_author?"
        )
        fields(body, names, named)
        for field in ("time", "sequence", "previous"):
            require(body[field] == header[field], f"{named}: another {field}")
        time_of(body["finished"], named)
        require(body["tags"] == sorted(set(body["tags"])), f"{named}: tags in another order")
        host = body["host"].encode()
        series = b"alluvium v1 series" + struct.pack("<Q", len(host)) + host
        series = blake3(series + body["source"].encode(), key=self.keys["chunk_id"]).hexdigest()
        require(series == header["series"], f"{named}: another series")
        fields(body["shape"], "is dialect?", named)
        require(body["shape"]["is"] in "stream dump archive files pages".split(), f"{named}: shape")
        dialects = (None, "postgres", "mysql", "sqlite", "mongodb", "tar", "lines")
        require(body["shape"].get("dialect") in dialects, f"{named}: an unknown dialect")
        fields(body["parts"], "count bytes blake3 list", named)
        require(body["parts"]["bytes"] == header["bytes"], f"{named}: other bytes")
        return body

    def parts(self, body, where):
        """The parts of a snapshot; checks the list at its end."""
        about = body["parts"]
        if "inline" in about["list"]:
            parts = fields(about["list"], "inline", where)["inline"]
            require(len(parts) <= 16, f"{where}: too many parts in the manifest")
        else:
            recipe = fields(about["list"], "recipe", where)["recipe"]
            records = self.records(recipe, 65536, where)
            parts = (read_json(record, where) for record in records)
            self.facts["lists"] = self.facts.get("lists", 0) + 1
        identities, count, size, names = blake3(), 0, 0, set()
        for part in parts:
            fields(part, "name kind digest recipe stored_bytes?", where)
            identity = self.identity(part, where)
            require(identity[40:] not in names, f"{where}: a name twice")
            names.add(identity[40:])
            identities.update(identity)
            count += 1
            size += part["digest"]["bytes"]
            yield part
        found = [count, size, identities.hexdigest()]
        require(found == [about[x] for x in ("count", "bytes", "blake3")], f"{where}: another list")

    def identity(self, part, where):
        name = fields(part["name"], "database? schema? object piece?", where)
        require(name.get("piece", 2) > 1, f"{where}: a piece that should be left out")
        digest = fields(part["digest"], "bytes blake3", where)
        identity = struct.pack("<Q", digest["bytes"]) + digits(digest["blake3"], 32, where)
        size = 0
        for field in ("database", "schema", "object"):
            text = name.get(field)
            encoded = b"" if text is None else text.encode()
            size += len(encoded)
            identity += struct.pack("<I", 0 if text is None else len(encoded) + 1) + encoded
        require(size <= 4096, f"{where}: too long a name")
        return identity + struct.pack("<I", name.get("piece", 1))

    def restore(self, name, out):
        """Restores a snapshot and compares all digests. Tells what it was."""
        body, where = self.open_body(name), f"snapshots/{name}"
        os.makedirs(out)
        stream = open(os.path.join(out, "stream"), "xb") if body["whole"] else None
        require((stream is None) == (body["shape"]["is"] == "files"), f"{where}: whole")
        found, told = [], []
        for part in self.parts(body, where):
            digest, size, hashed = part["digest"], 0, blake3()
            target, kind = stream, part["kind"]
            if stream is None:
                target = self.place(part, os.path.join(out, "files"), where)
            for chunk in self.chunks(part["recipe"], where):
                hashed.update(chunk)
                size += len(chunk)
                require(size <= digest["bytes"], f"{where}: more bytes than the part has")
                target.write(chunk)
            same = {"bytes": size, "blake3": hashed.hexdigest()} == digest
            require(same, f"{where}: other bytes in {part['name']}")
            if target is not stream and target is not None:
                target.close()
            found.append(digest)
            told.append({"name": part["name"], "kind": kind, "bytes": size})
        if stream:
            stream.close()
            self.compare_whole(body["whole"], found, where)
        if "catalog" in body:
            self.check_catalog(body["catalog"], where)
        author = self.certificates[self.snapshots[name]["author"]]["label"]
        about = ("source", "host", "tags", "sequence", "previous", "shape")
        key_epoch = struct.unpack("<I", self.snapshots[name]["wrapped"][16:20])[0]
        told = {"author": author, "epoch": key_epoch, "parts": told}
        return {"snapshot": name, **{field: body[field] for field in about}, **told}

    def compare_whole(self, whole, found, where):
        require(whole["bytes"] == sum(digest["bytes"] for digest in found), f"{where}: whole")
        digest = found[0]["blake3"] if len(found) == 1 else None
        if digest is None:
            digest = blake3(b"".join(bytes.fromhex(d["blake3"]) for d in found)).hexdigest()
        require(whole["blake3"] == digest, f"{where}: another whole")

    def place(self, part, folder, where):
        """Creates what a part of files is; gives the file to write to, if it is one."""
        kind = dict(part["kind"])
        names = part["name"]["object"].split("/")
        require(not {"", ".", ".."} & set(names), f"{where}: a name that leads elsewhere")
        path, parent = os.path.join(folder, *names), os.path.join(folder, *names[:-1])
        os.makedirs(parent, exist_ok=True)
        outside = os.path.realpath(parent) != os.path.join(os.path.realpath(folder), *names[:-1])
        require(not outside, f"{where}: a link on the way")
        if kind["is"] == "file":
            fields(kind, "is mode modified changed?", where)
            return open(path, "xb")
        require(part["digest"] == EMPTY_DIGEST, f"{where}: bytes of {kind['is']}")
        if kind["is"] == "folder":
            fields(kind, "is mode", where)
            os.makedirs(path, exist_ok=True)
        else:
            require(kind["is"] == "link", f"{where}: an unknown kind")
            os.symlink(fields(kind, "is target", where)["target"], path)
        return None

    def check_catalog(self, catalog, where):
        fields(catalog, "digest recipe tables", where)
        hashed, size, tables = blake3(), 0, 0
        for record in self.records(catalog["recipe"], 1048576, where):
            hashed.update(record + b"\n")
            size += len(record) + 1
            tables += 1
            table = fields(read_json(record, where), "name rows bytes columns digest", where)
            for column in table["columns"]:
                fields(column, "name type", where)
            digits(table["digest"], 32, where)
        same = {"bytes": size, "blake3": hashed.hexdigest()} == catalog["digest"]
        require(same and tables == catalog["tables"], f"{where}: another catalog")
        self.facts["tables"] = self.facts.get("tables", 0) + tables


def main(folder, out):
    repository = Repository(folder, os.environb[b"ALLUVIUM_PASSWORD"])
    repository.check_generations()
    repository.check_sessions()
    repository.read_packs()
    repository.check_index()
    repository.read_snapshots()
    restored = []
    if repository.full:
        for name in repository.snapshots:
            restored.append(repository.restore(name, os.path.join(out, name)))
    document = {
        "slot": repository.certificates[repository.slot]["label"],
        "kind": repository.certificates[repository.slot]["kind"],
        "epochs": list(repository.epochs),
        "opened_epochs": list(repository.secrets),
        "slots": sorted(one["label"] for one in repository.certificates.values()),
        "packs": len(repository.packs),
        "headers": len(repository.snapshots),
        "snapshots": restored,
        "facts": repository.facts,
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Malformed, CryptoError) as error:
        sys.exit(f"refused: {error}")
