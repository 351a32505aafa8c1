//! Numbers as text: which values are numbers that read back exactly as they were written, and how they are written.

/// Most digits of a number: all of them fit an `i64`, and so do their differences.
const DIGITS_MAX: usize = 18;

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a program writes an integer: no leading zeros, no plus, no minus zero.
    Integer,
    /// Digits, always so many.
    Digits(u8),
    /// An integer, a point, always so many digits.
    Decimal(u8),
    /// `YYYY-MM-DD`: days from 1970-01-01.
    Date,
    /// `YYYY-MM-DD`, a byte (space or `T`), `HH:MM:SS`, and a fraction: seconds or parts of a second since 1970.
    Time(u8, Fraction),
}

/// The fraction of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fraction {
    /// None: the unit is the second.
    None,
    /// A point and always so many digits, which give the unit.
    Fixed(u8),
    /// Microseconds without the zeros at their end, and without a point when they are zero: as `PostgreSQL` writes them.
    Trimmed,
}

/// Most digits of a fixed fraction: seconds of ten thousand years times this fit.
const FRACTION_MAX: u8 = 6;

impl Form {
    /// The forms that a column which begins with `value` may have, the best first, each with the text that follows every
    /// number in this form.
    pub(super) fn of(value: &[u8]) -> Vec<(Self, &[u8])> {
        let mut forms = Vec::new();
        let digits = value.iter().take_while(|b| b.is_ascii_digit()).count();
        match value {
            [b'0'..=b'9', .., _] | [b'0'..=b'9'] if digits == value.len() && digits <= DIGITS_MAX => {
                forms.push((Self::Integer, &b""[..]));
                forms.push((Self::Digits(digits as u8), &b""[..]));
            }
            [b'-', ..] if value[1..].iter().all(u8::is_ascii_digit) => forms.push((Self::Integer, &b""[..])),
            _ if value.len() >= 10 && digits == 4 && value[4] == b'-' && value[7] == b'-' => {
                if value.len() == 10 {
                    forms.push((Self::Date, &b""[..]));
                } else if value.len() >= 19 && matches!(value[10], b' ' | b'T') {
                    let fraction = match value.get(19) {
                        Some(b'.') => value[20..].iter().take_while(|b| b.is_ascii_digit()).count(),
                        _ => 0,
                    };
                    let end = if fraction > 0 { 20 + fraction } else { 19 };
                    if fraction == 0 {
                        forms.push((Self::Time(value[10], Fraction::None), &value[end..]));
                    }
                    if (1..=usize::from(FRACTION_MAX)).contains(&fraction) {
                        forms.push((Self::Time(value[10], Fraction::Fixed(fraction as u8)), &value[end..]));
                    }
                    forms.push((Self::Time(value[10], Fraction::Trimmed), &value[end..]));
                }
            }
            _ => {
                let whole = value.iter().position(|&b| b == b'.');
                let scale = whole.map_or(0, |at| value.len() - at - 1);
                if (1..DIGITS_MAX).contains(&scale) && value.len() <= DIGITS_MAX + 2 {
                    forms.push((Self::Decimal(scale as u8), &b""[..]));
                }
            }
        }
        forms
    }

    /// The number that `text` writes in this form, if it is the only way to write it.
    pub(super) fn parse(self, text: &[u8]) -> Option<i64> {
        match self {
            Self::Integer => integer(text),
            Self::Digits(n) => (text.len() == usize::from(n)).then(|| natural(text))?,
            Self::Decimal(scale) => decimal(text, usize::from(scale)),
            Self::Date => (text.len() == 10).then(|| date(text))?,
            Self::Time(between, fraction) => time(text, between, fraction),
        }
    }

    /// Writes `number` as [`parse`](Self::parse) reads it, and returns the length of its text; what stands behind that is of no
    /// meaning. A number that no text in this form has is written somehow.
    #[inline]
    pub(super) fn write(self, number: i64, day: &mut Day, into: &mut [u8; TEXT_MAX]) -> usize {
        let mut out = Text { bytes: into, len: 0 };
        match self {
            Self::Integer => out.integer(number),
            Self::Digits(n) => out.digits(number.unsigned_abs(), usize::from(n)),
            // The usual one: a division by a number that is known beforehand.
            Self::Decimal(2) => {
                let part = out.whole(number, 100);
                out.pair(part);
            }
            Self::Decimal(scale) => {
                let part = out.whole(number, 10_u64.pow(u32::from(scale)));
                out.digits(part, usize::from(scale));
            }
            Self::Date => out.date(number, day),
            Self::Time(between, fraction) => out.time(number, between, fraction, day),
        }
        out.len
    }

    /// The text of `number` and its length, where it is a short integer: most numbers are, and so they need no room for more.
    #[inline]
    pub(super) fn short(self, number: i64) -> Option<([u8; 8], usize)> {
        let n = u64::try_from(number).ok().filter(|n| self == Self::Integer && *n < EIGHT_DIGITS)?;
        Some(few_digits(n))
    }

    /// The form's bytes in a description.
    pub(super) fn encode(self, meta: &mut Vec<u8>) {
        match self {
            Self::Integer => meta.push(0),
            Self::Digits(n) => meta.extend([1, n]),
            Self::Decimal(scale) => meta.extend([2, scale]),
            Self::Date => meta.push(3),
            Self::Time(between, Fraction::None) => meta.extend([4, between, 0]),
            Self::Time(between, Fraction::Fixed(n)) => meta.extend([4, between, n]),
            Self::Time(between, Fraction::Trimmed) => meta.extend([4, between, u8::MAX]),
        }
    }

    /// Reads what [`encode`](Self::encode) writes; `next` gives the next byte.
    pub(super) fn decode(mut next: impl FnMut() -> Result<u8, String>) -> Result<Self, String> {
        let digits = |n: u8| {
            if (1..=DIGITS_MAX as u8).contains(&n) { Ok(n) } else { Err(format!("numbers of {n} digits")) }
        };
        Ok(match next()? {
            0 => Self::Integer,
            1 => Self::Digits(digits(next()?)?),
            2 => Self::Decimal(digits(next()?)?),
            3 => Self::Date,
            4 => {
                let between = next()?;
                match next()? {
                    0 => Self::Time(between, Fraction::None),
                    u8::MAX => Self::Time(between, Fraction::Trimmed),
                    n if n <= FRACTION_MAX => Self::Time(between, Fraction::Fixed(n)),
                    n => return Err(format!("fractions of {n} digits")),
                }
            }
            other => return Err(format!("unknown form {other} of numbers")),
        })
    }
}

impl Fraction {
    fn digits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Fixed(n) => n,
            Self::Trimmed => 6,
        }
    }
}

fn natural(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() > DIGITS_MAX {
        return None;
    }
    let mut n = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        n = n * 10 + i64::from(digit);
    }
    Some(n)
}

fn integer(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', b'0', ..] | [b'0', _, ..] => None,
        [b'-', rest @ ..] => natural(rest).map(|n| -n),
        _ => natural(text),
    }
}

fn decimal(text: &[u8], scale: usize) -> Option<i64> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let point = rest.len().checked_sub(scale + 1)?;
    let (whole, part) = (&rest[..point], &rest[point + 1..]);
    if rest[point] != b'.' || rest.len() > DIGITS_MAX || (whole.len() > 1 && whole[0] == b'0') {
        return None;
    }
    let n = natural(whole)? * 10_i64.pow(scale as u32) + natural(part)?;
    match (negative, n) {
        (true, 0) => None,
        (true, n) => Some(-n),
        (false, n) => Some(n),
    }
}

/// Days from 1970-01-01 of a day of the proleptic Gregorian calendar, by the method of Hinnant
/// (<https://howardhinnant.github.io/date_algorithms.html>, `days_from_civil`).
fn date(text: &[u8]) -> Option<i64> {
    if text[4] != b'-' || text[7] != b'-' {
        return None;
    }
    let (year, month, day) = (natural(&text[..4])?, natural(&text[5..7])?, natural(&text[8..10])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1 || !(1..=longest).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468)
}

fn time(text: &[u8], between: u8, fraction: Fraction) -> Option<i64> {
    let (clock, rest) = text.split_at_checked(19)?;
    if clock[10] != between || clock[13] != b':' || clock[16] != b':' {
        return None;
    }
    let (hour, minute, second) = (natural(&clock[11..13])?, natural(&clock[14..16])?, natural(&clock[17..19])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = date(clock)? * 86_400 + hour * 3600 + minute * 60 + second;
    let digits = usize::from(fraction.digits());
    let part = match (fraction, rest) {
        (Fraction::None | Fraction::Trimmed, []) => 0,
        (Fraction::Fixed(_), [b'.', part @ ..]) if part.len() == digits => natural(part)?,
        (Fraction::Trimmed, [b'.', part @ ..]) if part.len() <= digits && !part.ends_with(b"0") => {
            natural(part)? * 10_i64.pow((digits - part.len()) as u32)
        }
        _ => return None,
    };
    Some(seconds * 10_i64.pow(digits as u32) + part)
}

/// Room for the text of a number: the longest has 39 bytes, and eight are written at a time.
pub(super) const TEXT_MAX: usize = 48;

/// The text of one number.
struct Text<'t> {
    bytes: &'t mut [u8; TEXT_MAX],
    len: usize,
}

/// The day that was written last: times of a table come in order, mostly.
pub(super) struct Day {
    number: i64,
    text: [u8; 10],
}

impl Default for Day {
    fn default() -> Self {
        Self { number: 0, text: *b"1970-01-01" }
    }
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

/// Numbers below this are written at once.
const EIGHT_DIGITS: u64 = 100_000_000;
const ZEROS: u64 = u64::from_ne_bytes([b'0'; 8]);

/// The eight digits of `n`, the first in the lowest byte: halves, quarters and eighths of the number are split off in lanes of
/// one register (Khuong, "How to print integers really fast", 2017).
fn eight_digits(n: u64) -> u64 {
    let halves = (n / 10_000) | ((n % 10_000) << 32);
    let hundreds = ((halves * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | ((halves - hundreds * 100) << 16);
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    (tens | ((pairs - tens * 10) << 8)) + ZEROS
}

/// A number below [`EIGHT_DIGITS`] without leading zeros, and how many bytes of it are text.
#[inline]
fn few_digits(n: u64) -> ([u8; 8], usize) {
    let digits = eight_digits(n);
    let zeros = ((digits ^ ZEROS).trailing_zeros() / 8).min(7);
    ((digits >> (8 * zeros)).to_le_bytes(), 8 - zeros as usize)
}

impl Text<'_> {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    /// The first `len` of eight bytes.
    fn eight(&mut self, bytes: u64, len: usize) {
        self.bytes[self.len..self.len + 8].copy_from_slice(&bytes.to_le_bytes());
        self.len += len;
    }

    fn integer(&mut self, n: i64) {
        if n < 0 {
            self.push(b'-');
        }
        self.natural(n.unsigned_abs());
    }

    #[inline]
    fn natural(&mut self, n: u64) {
        if n < EIGHT_DIGITS {
            return self.short(n);
        }
        let (first, rest) = (n / EIGHT_DIGITS, n % EIGHT_DIGITS);
        if first < EIGHT_DIGITS {
            self.short(first);
        } else {
            self.short(first / EIGHT_DIGITS);
            self.eight(eight_digits(first % EIGHT_DIGITS), 8);
        }
        self.eight(eight_digits(rest), 8);
    }

    /// A number below [`EIGHT_DIGITS`].
    #[inline]
    fn short(&mut self, n: u64) {
        let (text, len) = few_digits(n);
        self.eight(u64::from_le_bytes(text), len);
    }

    /// The last `len` digits of `n`.
    fn digits(&mut self, n: u64, len: usize) {
        if len > 8 {
            self.digits(n / EIGHT_DIGITS, len - 8);
            return self.eight(eight_digits(n % EIGHT_DIGITS), 8);
        }
        if len > 0 {
            self.eight(eight_digits(n % EIGHT_DIGITS) >> (8 * (8 - len)), len);
        }
    }

    /// Sign, whole part and point of so many parts of `one`; returns the parts that are left to be written.
    #[inline]
    fn whole(&mut self, number: i64, one: u64) -> u64 {
        if number < 0 {
            self.push(b'-');
        }
        self.natural(number.unsigned_abs() / one);
        self.push(b'.');
        number.unsigned_abs() % one
    }

    /// Two digits.
    fn pair(&mut self, n: u64) {
        self.bytes[self.len..self.len + 2].copy_from_slice(&PAIRS[n as usize]);
        self.len += 2;
    }

    /// The inverse of [`time`].
    fn time(&mut self, number: i64, between: u8, fraction: Fraction, day: &mut Day) {
        let digits = fraction.digits();
        let (seconds, part) = match digits {
            0 => (number, 0),
            // The usual one: a division by a number that is known beforehand.
            6 => (number.div_euclid(1_000_000), number.rem_euclid(1_000_000)),
            _ => (number.div_euclid(10_i64.pow(digits.into())), number.rem_euclid(10_i64.pow(digits.into()))),
        };
        self.date(seconds.div_euclid(86_400), day);
        self.push(between);
        let clock = seconds.rem_euclid(86_400).unsigned_abs();
        self.pair(clock / 3600);
        self.push(b':');
        self.pair(clock / 60 % 60);
        self.push(b':');
        self.pair(clock % 60);
        match fraction {
            Fraction::None => {}
            Fraction::Trimmed if part == 0 => {}
            Fraction::Fixed(_) | Fraction::Trimmed => {
                self.push(b'.');
                self.digits(part.unsigned_abs(), usize::from(digits));
                if fraction == Fraction::Trimmed {
                    self.trim_zeros();
                }
            }
        }
    }

    /// The inverse of [`date`] (Hinnant, `civil_from_days`). Years have four digits, whatever is claimed.
    fn date(&mut self, days: i64, last: &mut Day) {
        let (begin, end) = (self.len, self.len + last.text.len());
        if days == last.number {
            self.bytes[begin..end].copy_from_slice(&last.text);
            self.len = end;
            return;
        }
        last.number = days;
        let days = days.clamp(-719_162, 2_932_896) + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let (day, month) =
            (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        self.digits(year.unsigned_abs(), 4);
        self.push(b'-');
        self.pair(month.unsigned_abs());
        self.push(b'-');
        self.pair(day.unsigned_abs());
        last.text.copy_from_slice(&self.bytes[begin..end]);
    }

    fn trim_zeros(&mut self) {
        while self.len > 0 && self.bytes[self.len - 1] == b'0' {
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form, number: i64) -> String {
        let mut text = [0; TEXT_MAX];
        let len = form.write(number, &mut Day::default(), &mut text);
        String::from_utf8(text[..len].to_vec()).expect("ASCII")
    }

    #[test]
    fn every_day_there_and_back() {
        assert_eq!(date(b"1970-01-01"), Some(0));
        for day in -719_162..=2_932_896 {
            assert_eq!(date(written(Form::Date, day).as_bytes()), Some(day));
        }
        assert_eq!(written(Form::Date, -719_162), "0001-01-01");
        assert_eq!(written(Form::Date, 2_932_896), "9999-12-31");
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for n in (0..EIGHT_DIGITS).step_by(997).chain([9, 99, 9_999, 10_000, 99_999, EIGHT_DIGITS - 1]) {
            assert_eq!(eight_digits(n).to_le_bytes(), *format!("{n:08}").as_bytes());
        }
        let powers = (0..19).map(|log| 10_i64.pow(log));
        for n in powers.flat_map(|one| [one - 1, one, one + 1]).chain([i64::MAX]) {
            assert_eq!([n, -n].map(|n| written(Form::Integer, n)), [n, -n].map(|n| n.to_string()));
            let short = Form::Integer.short(n).map(|(text, len)| text[..len].to_vec());
            assert_eq!(short, (n < 100_000_000).then(|| n.to_string().into_bytes()));
            let last = |len: usize| format!("{n:018}").split_off(n.to_string().len().max(18) - len);
            for len in 1..=18 {
                assert_eq!(written(Form::Digits(len), n), last(len.into()), "{len} of {n}");
            }
        }
        assert_eq!(written(Form::Integer, i64::MIN), i64::MIN.to_string());
        assert_eq!(written(Form::Decimal(18), i64::MIN), "-9.223372036854775808");
    }

    #[test]
    fn only_what_has_one_way_to_be_written_is_a_number() {
        for (form, good) in [
            (Form::Integer, &["0", "-1", "999999999999999999"][..]),
            (Form::Digits(3), &["000", "007", "999"]),
            (Form::Decimal(2), &["0.00", "-0.50", "12.34"]),
            (Form::Time(b' ', Fraction::None), &["2024-02-29 23:59:59", "0001-01-01 00:00:00"]),
            (Form::Time(b'T', Fraction::Fixed(3)), &["2024-02-29T23:59:59.120"]),
            (
                Form::Time(b' ', Fraction::Trimmed),
                &["2024-02-29 23:59:59", "1969-12-31 23:59:59.12", "2024-02-29 00:00:00.000001"],
            ),
        ] {
            for text in good {
                let number = form.parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is {form:?}"));
                assert_eq!(written(form, number), *text);
            }
        }
        for (form, bad) in [
            (Form::Integer, &["", "-", "-0", "01", "+1", "1 ", "1000000000000000000"][..]),
            (Form::Digits(3), &["", "01", "0001", "1x2", "-12"]),
            (Form::Decimal(2), &["-0.00", "00.10", ".10", "1.1", "1.123", "1234567890123456.78", "-.10"]),
            (Form::Date, &["2023-02-29", "2024-13-01", "0000-01-01", "2024-1-011"]),
            (
                Form::Time(b' ', Fraction::None),
                &["2024-02-29 24:00:00", "2024-02-29 23:59:60", "2024-02-29T00:00:00", "2024-02-29 00:00:00.1"],
            ),
            (
                Form::Time(b' ', Fraction::Trimmed),
                &["2024-02-29 00:00:00.", "2024-02-29 00:00:00.10", "2024-02-29 00:00:00.1234567"],
            ),
        ] {
            for text in bad {
                assert_eq!(form.parse(text.as_bytes()), None, "{text} is no {form:?}");
            }
        }
    }
}
