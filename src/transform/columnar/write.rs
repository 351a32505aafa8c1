//! Columns to bytes: each column in the first form that fits all of its values.

use super::layout::Layout;
use super::numbers::Form;
use super::rows::Rows;
use super::words::{Shapes, shapes};
use super::{COLUMNS_MAX, Compressor, DEPTH_MAX, kind, mode};

/// What stands for no value, in the formats that have it.
const NULLS: [&[u8]; 3] = [b"\\N", b"", b"NULL"];
/// Most entries of a dictionary: an index is a byte.
const ENTRIES_MAX: usize = 256;
/// Binary streams below this length are not worth a frame.
const FRAME_MIN: usize = 48;

/// The whole form of a chunk of `raw_len` bytes, or `None` when it would not be shorter.
pub(super) fn write(
    rows: &Rows<'_>,
    text: &mut Compressor,
    binary: &mut Compressor,
    raw_len: usize,
) -> Option<Vec<u8>> {
    let mut writer =
        Writer { meta: Vec::new(), text: Vec::new(), streams: Vec::new(), plain: 0, columns: 0, values: 0, binary };
    let columns = rows.layout.columns;
    if rows.layout != Layout::tabs(columns) {
        writer.meta.push(0);
    }
    varint(&mut writer.meta, columns as u64);
    if rows.layout != Layout::tabs(columns) {
        for literal in [rows.layout.opening, rows.layout.between, rows.layout.closing] {
            writer.literal(literal);
        }
    }
    varint(&mut writer.meta, rows.count() as u64);
    varint(&mut writer.meta, rows.odd.len() as u64);
    let mut before = 0;
    for (place, piece) in &rows.odd {
        varint(&mut writer.meta, (place - before) as u64);
        varint(&mut writer.meta, piece.len() as u64);
        writer.text.extend_from_slice(piece);
        before = *place;
    }
    let mut values = Vec::with_capacity(rows.count());
    for column in 0..columns {
        values.clear();
        values.extend(rows.fields.chunks_exact(columns).map(|row| row[column]));
        writer.column(&values, DEPTH_MAX)?;
    }
    let Writer { mut meta, text: mut text_bytes, streams, plain, columns, values, .. } = writer;
    let fits = columns <= COLUMNS_MAX
        && values <= values_max(raw_len)
        && plain <= binary_max(raw_len)
        && meta.len() + text_bytes.len() <= text_max(raw_len);
    if !fits || streams.len() >= raw_len {
        return None;
    }
    let mut out = Vec::with_capacity(raw_len / 2);
    varint(&mut out, meta.len() as u64);
    varint(&mut out, text_bytes.len() as u64);
    meta.append(&mut text_bytes);
    let body = text.compress(&meta).unwrap_or(&meta);
    varint(&mut out, body.len() as u64);
    out.extend_from_slice(body);
    out.extend_from_slice(&streams);
    (out.len() < raw_len).then_some(out)
}

/// Most plain bytes of binary streams of a chunk.
pub(super) fn binary_max(raw_len: usize) -> usize {
    8 * raw_len + (64 << 10)
}

/// Most values of all columns of a chunk, those within others included.
pub(super) fn values_max(raw_len: usize) -> usize {
    8 * raw_len + (64 << 10)
}

/// Most plain bytes of description and text of a chunk.
pub(super) fn text_max(raw_len: usize) -> usize {
    2 * raw_len + (64 << 10)
}

/// A number, seven bits a byte, the lowest first (LEB128).
fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Signed numbers as unsigned ones, the small ones small: 0, -1, 1, -2 ...
fn zigzag(n: i64) -> u64 {
    (n << 1 ^ n >> 63) as u64
}

struct Writer<'w> {
    meta: Vec<u8>,
    text: Vec<u8>,
    /// Binary streams as they are stored.
    streams: Vec<u8>,
    /// Their plain bytes.
    plain: usize,
    columns: usize,
    values: usize,
    binary: &'w mut Compressor,
}

impl Writer<'_> {
    fn column(&mut self, values: &[&[u8]], depth: u8) -> Option<()> {
        self.columns += 1;
        self.values += values.len();
        let Some((first, rest)) = values.split_first() else {
            self.meta.extend([kind::CONSTANT, 0]);
            return Some(());
        };
        if rest.iter().all(|value| value == first) {
            self.meta.push(kind::CONSTANT);
            self.literal(first);
            return Some(());
        }
        if depth > 1
            && let Some(null) = null(values)
        {
            return self.nullable(null, values, depth - 1);
        }
        if depth > 1
            && let Some(quote) = quotes(values)
        {
            return self.affixes(quote, quote, values, depth - 1);
        }
        if let Some((form, suffix, numbers)) = as_numbers(values) {
            self.meta.push(kind::NUMBERS);
            form.encode(&mut self.meta);
            self.literal(suffix);
            self.numbers(&numbers);
            return Some(());
        }
        if let Some((entries, index)) = dictionary(values) {
            self.meta.push(kind::DICTIONARY);
            varint(&mut self.meta, entries.len() as u64);
            self.text(&entries)?;
            self.stream(&index);
            return Some(());
        }
        if let Some(kind) = [kind::HEX, kind::HEX_UPPER].into_iter().find(|kind| is_hex(values, *kind)) {
            self.hex(values, kind);
            return Some(());
        }
        if depth > 1
            && let Some((prefix, suffix)) = affixes(values)
        {
            return self.affixes(prefix, suffix, values, depth - 1);
        }
        if depth > 1
            && let Some(shapes) = shapes(values)
        {
            return self.templates(&shapes, depth);
        }
        self.meta.push(kind::TEXT);
        self.text(values)
    }

    fn nullable(&mut self, null: &[u8], values: &[&[u8]], depth: u8) -> Option<()> {
        self.meta.push(kind::NULLABLE);
        self.literal(null);
        let present: Vec<u8> = values.iter().map(|value| u8::from(*value != null)).collect();
        self.stream(&present);
        let inner: Vec<&[u8]> = values.iter().copied().filter(|value| *value != null).collect();
        self.column(&inner, depth)
    }

    fn affixes(&mut self, prefix: &[u8], suffix: &[u8], values: &[&[u8]], depth: u8) -> Option<()> {
        self.meta.push(kind::AFFIXES);
        self.literal(prefix);
        self.literal(suffix);
        let inner: Vec<&[u8]> = values.iter().map(|v| &v[prefix.len()..v.len() - suffix.len()]).collect();
        self.column(&inner, depth)
    }

    fn templates(&mut self, found: &Shapes<'_>, depth: u8) -> Option<()> {
        self.meta.push(kind::TEMPLATES);
        varint(&mut self.meta, found.templates.len() as u64);
        for shape in &found.templates {
            varint(&mut self.meta, shape.slots() as u64);
            shape.literals.iter().for_each(|literal| self.literal(literal));
        }
        self.stream(&found.which);
        let mut words = Vec::new();
        for shape in &found.templates {
            for slot in 0..shape.slots() {
                words.clear();
                words.extend(shape.words.chunks_exact(shape.slots()).map(|words| words[slot]));
                // Words may have a common beginning, and nothing below that.
                self.column(&words, depth.min(3) - 1)?;
            }
        }
        self.column(&found.others, 1)
    }

    /// Values that end in a byte which none of them holds.
    fn text(&mut self, values: &[&[u8]]) -> Option<()> {
        let end = (0..=b'\n').rev().find(|end| !values.iter().any(|value| value.contains(end)))?;
        self.meta.push(end);
        let begin = self.text.len();
        for value in values {
            self.text.extend_from_slice(value);
            self.text.push(end);
        }
        varint(&mut self.meta, (self.text.len() - begin) as u64);
        Some(())
    }

    fn hex(&mut self, values: &[&[u8]], kind: u8) {
        let digits = values[0].len();
        self.meta.extend([kind, digits as u8]);
        let nibble = |digit: u8| if digit <= b'9' { digit - b'0' } else { (digit & 7) + 9 };
        let mut bytes = Vec::with_capacity(values.len() * digits / 2);
        for at in (0..digits).step_by(2) {
            bytes.extend(values.iter().map(|value| nibble(value[at]) << 4 | nibble(value[at + 1])));
        }
        self.stream(&bytes);
    }

    fn numbers(&mut self, numbers: &[i64]) {
        let first = numbers[0];
        let deltas: Vec<i64> = numbers.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let step = deltas.first().copied().unwrap_or(0);
        if deltas.iter().all(|delta| *delta == step) {
            self.meta.push(0);
            varint(&mut self.meta, zigzag(first));
            varint(&mut self.meta, zigzag(step));
            return;
        }
        let least = numbers.iter().copied().min().unwrap_or(first);
        let offsets: Vec<u64> = numbers.iter().map(|n| (n - least) as u64).collect();
        let deltas: Vec<u64> = deltas.into_iter().map(zigzag).collect();
        let bits = |numbers: &[u64]| numbers.iter().map(|n| u64::from(u64::BITS - n.leading_zeros())).sum::<u64>();
        if bits(&deltas) * 10 < bits(&offsets) * 9 {
            self.meta.push(2);
            varint(&mut self.meta, zigzag(first));
            self.planes(&deltas);
        } else {
            self.meta.push(1);
            varint(&mut self.meta, zigzag(least));
            self.planes(&offsets);
        }
    }

    /// The lowest bytes of all numbers, then the next.
    fn planes(&mut self, numbers: &[u64]) {
        let all = numbers.iter().fold(0, |all, n| all | n);
        let width = (u64::BITS - all.leading_zeros()).div_ceil(8);
        self.meta.push(width as u8);
        let mut plane = Vec::with_capacity(numbers.len());
        for at in 0..width {
            plane.clear();
            plane.extend(numbers.iter().map(|n| (n >> (8 * at)) as u8));
            self.stream(&plane);
        }
    }

    fn stream(&mut self, bytes: &[u8]) {
        self.plain += bytes.len();
        match bytes.split_first() {
            None => self.meta.extend([mode::CONSTANT, 0]),
            Some((first, rest)) if rest.iter().all(|byte| byte == first) => self.meta.extend([mode::CONSTANT, *first]),
            _ => {
                // A frame has to save the time that it takes.
                let worth = bytes.len() - bytes.len() / 32;
                let frame = if bytes.len() < FRAME_MIN { None } else { self.binary.compress(bytes) };
                if let Some(frame) = frame.filter(|frame| frame.len() < worth) {
                    self.meta.push(mode::ZSTD);
                    varint(&mut self.meta, frame.len() as u64);
                    self.streams.extend_from_slice(frame);
                } else {
                    self.meta.push(mode::RAW);
                    self.streams.extend_from_slice(bytes);
                }
            }
        }
    }

    fn literal(&mut self, bytes: &[u8]) {
        varint(&mut self.meta, bytes.len() as u64);
        self.meta.extend_from_slice(bytes);
    }
}

/// What stands for no value among them: the first of [`NULLS`] that occurs.
fn null(values: &[&[u8]]) -> Option<&'static [u8]> {
    let mut found = NULLS.len();
    for value in values.iter().filter(|value| value.len() <= 4) {
        found = NULLS[..found].iter().position(|null| null == value).unwrap_or(found);
    }
    NULLS.get(found).copied()
}

/// The values as numbers of one form, with the text that follows each of them.
fn as_numbers<'v>(values: &[&'v [u8]]) -> Option<(Form, &'v [u8], Vec<i64>)> {
    let first: &'v [u8] = values[0];
    let mut numbers = Vec::new();
    for (form, suffix) in Form::of(first) {
        numbers.clear();
        numbers.reserve(values.len());
        for value in values {
            let text = if suffix.is_empty() { Some(*value) } else { value.strip_suffix(suffix) };
            let Some(number) = text.and_then(|text| form.parse(text)) else { break };
            numbers.push(number);
        }
        if numbers.len() == values.len() {
            return Some((form, suffix, numbers));
        }
    }
    None
}

/// The different values, in the order in which they come, and the place of each value among them; `None` when they are
/// too many.
fn dictionary<'v>(values: &[&'v [u8]]) -> Option<(Vec<&'v [u8]>, Vec<u8>)> {
    /// Twice the entries: short ways to a free place.
    const SLOTS: usize = 2 * ENTRIES_MAX;
    const FREE: u16 = u16::MAX;
    let mut table = [FREE; SLOTS];
    let mut entries: Vec<&[u8]> = Vec::new();
    let mut index = Vec::with_capacity(values.len());
    for (n, value) in values.iter().enumerate() {
        let mut slot = hash(value) as usize % SLOTS;
        loop {
            match table[slot] {
                FREE if entries.len() == ENTRIES_MAX => return None,
                FREE => {
                    table[slot] = entries.len() as u16;
                    entries.push(value);
                    break;
                }
                entry if entries[usize::from(entry)] == *value => break,
                _ => slot = (slot + 1) % SLOTS,
            }
        }
        index.push(table[slot] as u8);
        // Most values are new: there is no end of them.
        if n % 64 == 63 && entries.len() * 2 > n {
            return None;
        }
    }
    (entries.len() * 2 <= values.len()).then_some((entries, index))
}

/// FNV-1a (Fowler, Noll, Vo), by words of eight bytes.
fn hash(value: &[u8]) -> u64 {
    const PRIME: u64 = 0x0100_0000_01b3;
    let (words, rest) = value.as_chunks::<8>();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325 ^ value.len() as u64;
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
        hash ^= hash >> 29;
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    }
    hash ^ hash >> 32
}

/// The quote that all values begin and end with: what is in it is a value as it stands elsewhere without.
fn quotes<'v>(values: &[&'v [u8]]) -> Option<&'v [u8]> {
    let quote = values[0].get(..1).filter(|quote| matches!(quote[0], b'\'' | b'"'))?;
    let is_quoted = |value: &&[u8]| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    values.iter().all(is_quoted).then_some(quote)
}

/// Hexadecimal of one case, all of one even length.
fn is_hex(values: &[&[u8]], kind: u8) -> bool {
    let digits = values[0].len();
    let first = if kind == kind::HEX { b'a' } else { b'A' };
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (first..first + 6).contains(byte);
    (4..=254).contains(&digits)
        && digits.is_multiple_of(2)
        && values.iter().all(|value| value.len() == digits && value.iter().all(is_digit))
}

/// What all values begin and end with, not in the midst of a number.
fn affixes<'v>(values: &[&'v [u8]]) -> Option<(&'v [u8], &'v [u8])> {
    let first: &'v [u8] = values[0];
    let (mut before, mut behind) = (first.len(), first.len());
    for value in &values[1..] {
        before = first[..before].iter().zip(*value).take_while(|(a, b)| a == b).count();
        behind = first[first.len() - behind..].iter().rev().zip(value.iter().rev()).take_while(|(a, b)| a == b).count();
        if before == 0 && behind == 0 {
            return None;
        }
    }
    while before > 0 && first[before - 1].is_ascii_digit() {
        before -= 1;
    }
    while behind > 0 && first[first.len() - behind].is_ascii_digit() {
        behind -= 1;
    }
    // Of the shortest value the two must not overlap.
    let shortest = values.iter().map(|value| value.len()).min().unwrap_or(0);
    behind = behind.min(shortest.saturating_sub(before));
    (before + behind > 0).then(|| (&first[..before], &first[first.len() - behind..]))
}
