//! How things look to people: safe names, sizes, times, lengths of time, tables.
//!
//! Names of sources, hosts, tags and parts, and texts of errors, come from repositories, databases and other
//! programs. A terminal obeys some characters and hides others, so everything that is shown passes
//! [`sanitize`]; [`super::output::Output`] and [`super::report::Reporter`] see to that.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use crate::storage::address::parse_size;

/// Characters that a terminal does not show, or that change how others are shown, besides control
/// characters: Unicode's Cf, Zl and Zp, variation selectors, fillers, tags and private use.
const HIDDEN: [(char, char); 29] = [
    ('\u{ad}', '\u{ad}'),         // soft hyphen
    ('\u{34f}', '\u{34f}'),       // combining grapheme joiner
    ('\u{600}', '\u{605}'),       // Arabic number signs
    ('\u{61c}', '\u{61c}'),       // Arabic letter mark
    ('\u{6dd}', '\u{6dd}'),       // Arabic end of ayah
    ('\u{70f}', '\u{70f}'),       // Syriac abbreviation mark
    ('\u{890}', '\u{891}'),       // Arabic pound and piastre marks above
    ('\u{8e2}', '\u{8e2}'),       // Arabic disputed end of ayah
    ('\u{115f}', '\u{1160}'),     // Hangul fillers
    ('\u{17b4}', '\u{17b5}'),     // Khmer inherent vowels
    ('\u{180b}', '\u{180f}'),     // Mongolian selectors and vowel separator
    ('\u{200b}', '\u{200f}'),     // zero width space and joiners, directional marks
    ('\u{2028}', '\u{202e}'),     // line and paragraph separators, bidi embeddings and overrides
    ('\u{2060}', '\u{206f}'),     // word joiner, invisible operators, bidi isolates
    ('\u{2800}', '\u{2800}'),     // blank Braille pattern
    ('\u{3164}', '\u{3164}'),     // Hangul filler
    ('\u{e000}', '\u{f8ff}'),     // private use
    ('\u{fe00}', '\u{fe0f}'),     // variation selectors
    ('\u{feff}', '\u{feff}'),     // byte order mark
    ('\u{ffa0}', '\u{ffa0}'),     // halfwidth Hangul filler
    ('\u{fff0}', '\u{fffb}'),     // interlinear annotations
    ('\u{110bd}', '\u{110bd}'),   // Kaithi number sign
    ('\u{110cd}', '\u{110cd}'),   // Kaithi number sign above
    ('\u{13430}', '\u{1343f}'),   // Egyptian hieroglyph format controls
    ('\u{1bca0}', '\u{1bca3}'),   // shorthand format controls
    ('\u{1d173}', '\u{1d17a}'),   // musical format controls
    ('\u{e0000}', '\u{e0fff}'),   // tags, variation selectors supplement
    ('\u{f0000}', '\u{fffff}'),   // private use
    ('\u{100000}', '\u{10ffff}'), // private use
];

fn is_hidden(c: char) -> bool {
    c.is_control() || (c >= '\u{ad}' && HIDDEN.iter().any(|&(first, last)| (first..=last).contains(&c)))
}

/// `text` with every character escaped that a terminal would obey, or not show: `\n`, `\u{1b}`, `\u{202e}`.
/// What remains is one line of visible characters.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// Bytes as people read them: `812 B`, `13.2 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    // What would be rounded to 1024.0 is 1.0 of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long something took: `0.6 s`, `2 min 5 s`, `3 h 20 min`.
pub fn took(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64().min(59.9)),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// How old something is, coarsely: `5 minutes`, `3 days`. What is in the future is new.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let minutes = u64::try_from(now.duration_since(since).as_secs()).unwrap_or(0) / 60;
    match minutes {
        0 => "new".to_owned(),
        1..120 => counted(minutes, "minute"),
        120..2880 => counted(minutes / 60, "hour"),
        2880..1_051_200 => counted(minutes / 1440, "day"),
        _ => counted(minutes / 525_600, "year"),
    }
}

/// `1 pack`, `27 packs`.
pub fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A time of day in `zone`.
pub fn time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The name of `zone`, for the head of a column of times.
pub fn zone_name(zone: &TimeZone) -> &str {
    zone.iana_name().unwrap_or("UTC")
}

/// The beginning of an id, as people read and type it.
pub fn short(id: &impl ToString) -> String {
    id.to_string().chars().take(8).collect()
}

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Texts.
    Left,
    /// Figures.
    Right,
}

/// Rows of cells with a head. Cells are sanitised as they enter.
#[derive(Debug)]
pub struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head; figures are written `>bytes`.
    pub fn new(head: &[&str]) -> Self {
        let side = |h: &&str| if h.starts_with('>') { Side::Right } else { Side::Left };
        let mut table = Self { sides: head.iter().map(side).collect(), rows: Vec::new() };
        table.row(head.iter().map(|h| h.trim_start_matches('>').to_owned()));
        table
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| sanitize(&cell).into_owned()).collect());
    }

    /// The lines, columns aligned by their number of characters.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(width).collect();
        self.rows.iter().map(move |row| {
            let mut line = String::new();
            for ((cell, side), width) in row.iter().zip(&self.sides).zip(&widths) {
                let written = match side {
                    Side::Left => write!(line, "{cell:<width$}  "),
                    Side::Right => write!(line, "{cell:>width$}  "),
                };
                written.expect("a string takes all that is written");
            }
            line.truncate(line.trim_end().len());
            line
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_obey_or_hide_is_escaped() {
        assert_eq!(sanitize("a\nb\r\x1b[2J\x07\x7f\u{9b}"), r"a\nb\r\u{1b}[2J\u{7}\u{7f}\u{9b}");
        for hidden in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain("\u{200e}\u{200f}\u{61c}".chars())
        {
            assert_eq!(sanitize(&format!("x{hidden}y")), format!("x\\u{{{:x}}}y", u32::from(hidden)));
        }
        for hidden in "\u{ad}\u{200b}\u{2060}\u{feff}\u{e0041}\u{e0100}\u{fe0f}\u{3164}\u{2028}\u{10fffd}".chars() {
            assert!(sanitize(&hidden.to_string()).is_ascii(), "{hidden:?}");
        }
        for plain in ["shop", "app.db + \"exports\"\\n", "Ærø", "e\u{301}", "データベース", "🦀", "שלום"]
        {
            assert!(matches!(sanitize(plain), Cow::Borrowed(same) if same == plain), "{plain}");
        }
    }

    #[test]
    fn the_hidden_ranges_are_ranges() {
        assert!(HIDDEN.iter().all(|(first, last)| first <= last && *first >= '\u{ad}'));
    }

    #[test]
    fn sizes() {
        let shown = [0, 812, 1023, 1024, 13_841_203, (1 << 20) - 1, 1 << 30, u64::MAX].map(size);
        assert_eq!(shown, ["0 B", "812 B", "1023 B", "1.0 KiB", "13.2 MiB", "1.0 MiB", "1.0 GiB", "16.0 EiB"]);
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("64k"), Ok(64 << 10));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("17"), Ok(17));
        for bad in ["", "M", "-1", "+1", "1.5G", "1 G", "1X", "99999999T", "18446744073709551616"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_of_time() {
        let shown = [0, 600, 59_990, 125_000, 12_000_000].map(|ms| took(Duration::from_millis(ms)));
        assert_eq!(shown, ["0.0 s", "0.6 s", "59.9 s", "2 min 5 s", "3 h 20 min"]);
        let then = |seconds| age(Timestamp::UNIX_EPOCH, Timestamp::from_second(seconds).expect("in range"));
        assert_eq!(
            [then(-5), then(59), then(60), then(3 * 3600), then(3 * 86_400), then(800 * 86_400)],
            ["new", "new", "1 minute", "3 hours", "3 days", "2 years"]
        );
    }

    #[test]
    fn tables_align() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row(["größe".to_owned(), "7".to_owned()]);
        table.row(["a\nb".to_owned(), "1234567".to_owned()]);
        let lines: Vec<String> = table.lines().collect();
        assert_eq!(lines, ["name     bytes", "größe        7", "a\\nb   1234567"]);
    }
}
