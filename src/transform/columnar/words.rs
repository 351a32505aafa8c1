//! Templates: what values of one shape have in common, and the words that differ. `/p/28071?ref=b0ccb4d8` has the shape
//! `/p/_?ref=_` and the words `28071` and `b0ccb4d8`, where `p` and `ref` are the same in all values of this shape.

/// Most words of a template.
pub(super) const WORDS_MAX: usize = 48;
/// Most templates of a column.
pub(super) const SHAPES_MAX: usize = 32;

/// Values by which templates are found: the first ones, and some from all over the chunk.
const SAMPLE_FIRST: usize = 64;
const SAMPLE_SPREAD: usize = 192;
/// Shapes that a sample is looked through for.
const SHAPES_SEEN_MAX: usize = 2 * SHAPES_MAX;

/// Whether a byte belongs to a word: letters, digits, and all that is not ASCII.
fn is_word(byte: u8) -> bool {
    const WORD: [bool; 256] = {
        let mut word = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            word[byte] = byte >= 0x80 || (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        word
    };
    WORD[usize::from(byte)]
}

/// A template and the values that have it.
pub(super) struct Shape<'v> {
    /// What is in front of the first word, between two, behind the last: one more than words.
    pub literals: Vec<Vec<u8>>,
    /// The words of all values, value by value.
    pub words: Vec<&'v [u8]>,
}

impl Shape<'_> {
    /// Words of each value.
    pub(super) fn slots(&self) -> usize {
        self.literals.len() - 1
    }
}

/// A column taken apart.
pub(super) struct Shapes<'v> {
    /// The templates.
    pub templates: Vec<Shape<'v>>,
    /// Of each value the number of its template; `templates.len()` where none fits.
    pub which: Vec<u8>,
    /// The values that none fits.
    pub others: Vec<&'v [u8]>,
}

/// Takes `values` apart, unless their shapes are too many or there is nothing in common.
pub(super) fn shapes<'v>(values: &[&'v [u8]]) -> Option<Shapes<'v>> {
    let mut found =
        Shapes { templates: templates(values)?, which: Vec::with_capacity(values.len()), others: Vec::new() };
    let none = found.templates.len();
    // The template of the value before is often this one's, too.
    let mut last = 0;
    for value in values {
        let which = if found.templates[last].take(value) {
            last
        } else {
            (0..none).find(|&at| at != last && found.templates[at].take(value)).unwrap_or(none)
        };
        found.which.push(which as u8);
        if which == none {
            found.others.push(value);
            if found.others.len() * 3 > values.len() {
                return None;
            }
        } else {
            last = which;
        }
    }
    Some(found)
}

/// The templates of most of a sample of `values`.
fn templates<'v>(values: &[&[u8]]) -> Option<Vec<Shape<'v>>> {
    let spread = (values.len() / SAMPLE_SPREAD).max(1);
    let first = values.len().min(SAMPLE_FIRST);
    let sample: Vec<&[u8]> = values[..first].iter().chain(values[first..].iter().step_by(spread)).copied().collect();
    let mut seen: Vec<Seen<'_>> = Vec::new();
    for value in &sample {
        let Some((separators, words)) = split(value) else { continue };
        match seen.iter().position(|one| one.separators == separators) {
            Some(at) => {
                let one = &mut seen[at];
                one.count += 1;
                one.words.iter_mut().zip(&words).for_each(|(seen, word)| *seen = seen.filter(|seen| seen == word));
            }
            None if seen.len() < SHAPES_SEEN_MAX => {
                seen.push(Seen { separators, words: words.into_iter().map(Some).collect(), count: 1 });
            }
            None => {}
        }
    }
    // Templates of a few values cost more than they bring.
    seen.retain(|one| one.count * 64 > sample.len());
    seen.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.separators.cmp(&b.separators)));
    seen.truncate(SHAPES_MAX);
    let covered: usize = seen.iter().map(|one| one.count).sum();
    let shapes: Vec<Shape<'v>> = seen.iter().map(Seen::template).filter(|shape| shape.slots() <= WORDS_MAX).collect();
    let has_something =
        |shape: &Shape<'_>| shape.slots() != 1 || shape.literals.iter().any(|literal| !literal.is_empty());
    (covered * 4 >= sample.len() * 3 && shapes.iter().any(has_something)).then_some(shapes)
}

/// A shape in the sample.
struct Seen<'s> {
    separators: Vec<&'s [u8]>,
    /// The words that were the same in all values.
    words: Vec<Option<&'s [u8]>>,
    count: usize,
}

impl Seen<'_> {
    /// The words that are always the same become part of what is around them.
    fn template<'v>(&self) -> Shape<'v> {
        let mut literals = vec![self.separators[0].to_vec()];
        for (word, separator) in self.words.iter().zip(&self.separators[1..]) {
            let literal = literals.last_mut().expect("there is one");
            match word {
                Some(word) if self.count > 1 => {
                    literal.extend_from_slice(word);
                    literal.extend_from_slice(separator);
                }
                _ => literals.push(separator.to_vec()),
            }
        }
        Shape { literals, words: Vec::new() }
    }
}

impl<'v> Shape<'v> {
    /// Takes the words of `value`, if it has this shape.
    fn take(&mut self, value: &'v [u8]) -> bool {
        let before = self.words.len();
        let fits = self.take_words(value);
        if !fits {
            self.words.truncate(before);
        }
        fits
    }

    fn take_words(&mut self, value: &'v [u8]) -> bool {
        let mut literals = self.literals.iter();
        let Some(mut rest) = literals.next().and_then(|first| behind(value, first)) else { return false };
        for literal in literals {
            let end = rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
            if end == 0 {
                return false;
            }
            self.words.push(&rest[..end]);
            match behind(&rest[end..], literal) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

/// What follows `literal` in `text`, if `text` begins with it. Two bytes tell most of those that do not.
fn behind<'t>(text: &'t [u8], literal: &[u8]) -> Option<&'t [u8]> {
    let Some((last, most)) = literal.split_last() else { return Some(text) };
    let (begin, rest) = text.split_at_checked(literal.len())?;
    let differs = begin[most.len()] != *last || begin[most.len() / 2] != literal[most.len() / 2];
    (!differs && begin == literal).then_some(rest)
}

/// What is around words, and the words.
type Split<'v> = (Vec<&'v [u8]>, Vec<&'v [u8]>);

/// What is around the words of `value`, and the words; `None` when they are too many.
fn split(value: &[u8]) -> Option<Split<'_>> {
    let (mut separators, mut words) = (Vec::new(), Vec::new());
    let mut at = 0;
    loop {
        let word = at + value[at..].iter().take_while(|&&byte| !is_word(byte)).count();
        separators.push(&value[at..word]);
        if word == value.len() {
            return Some((separators, words));
        }
        if words.len() == 4 * WORDS_MAX {
            return None;
        }
        at = word + value[word..].iter().take_while(|&&byte| is_word(byte)).count();
        words.push(&value[word..at]);
    }
}
