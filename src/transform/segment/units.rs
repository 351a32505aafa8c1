//! Statements of a dump, one by one, with the comments in front of each: for whoever wants some of them.

use super::Ledger;
use super::sql::{Dialect, Sql, Words, blank};

/// Cuts a text of whole statements into its units: each statement with the comments in front of it.
pub fn units(dialect: Dialect, text: &[u8]) -> Vec<&[u8]> {
    let mut sql = Sql::of_units(dialect);
    sql.scan(text, true, &mut Ledger::default());
    let mut begins: Vec<usize> = sql.take_units().into_iter().map(|(at, _)| at as usize).collect();
    begins.push(text.len());
    begins.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Whether a table that begins with `head` has its rows in a `COPY`, as far as that shows.
pub fn copies(dialect: Dialect, head: &[u8]) -> bool {
    let is_copy = |unit: &&[u8]| Words::of(&unit[blank(dialect, unit).unwrap_or(0)..]).after(&["COPY"]).is_some();
    dialect == Dialect::Postgres && units(dialect, head).iter().any(is_copy)
}

/// Cuts a stream into units.
struct Units {
    sql: Sql,
    /// Bytes that were not consumed.
    rest: Vec<u8>,
}

/// What comes next of a stream.
enum Next<'b> {
    /// A unit begins; does it hold rows?
    Unit {
        /// It does.
        rows: bool,
    },
    /// Bytes of the unit that began last.
    Bytes(&'b [u8]),
}

impl Units {
    fn new(dialect: Dialect) -> Self {
        Self { sql: Sql::of_units(dialect), rest: Vec::new() }
    }

    fn pass<E>(&mut self, bytes: &[u8], last: bool, take: &mut dyn FnMut(Next<'_>) -> Result<(), E>) -> Result<(), E> {
        self.rest.extend_from_slice(bytes);
        let begin = self.sql.consumed;
        let consumed = self.sql.scan(&self.rest, last, &mut Ledger::default());
        let mut at = 0;
        for (unit, rows) in self.sql.take_units() {
            let unit = (unit - begin) as usize;
            take(Next::Bytes(&self.rest[at..unit]))?;
            take(Next::Unit { rows })?;
            at = unit;
        }
        take(Next::Bytes(&self.rest[at..consumed]))?;
        self.rest.drain(..consumed);
        Ok(())
    }
}

/// Lets pass only the units of a stream that hold rows, or only those that don't.
pub struct UnitFilter {
    units: Units,
    rows: bool,
    /// The unit that passes is wanted.
    wanted: bool,
}

impl UnitFilter {
    /// Lets rows pass, or all but `rows`.
    pub fn new(dialect: Dialect, rows: bool) -> Self {
        Self { units: Units::new(dialect), rows, wanted: false }
    }

    /// Gives `out` what is wanted of the next bytes.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn pass<E>(
        &mut self,
        bytes: &[u8],
        last: bool,
        out: &mut (impl FnMut(&[u8]) -> Result<(), E> + ?Sized),
    ) -> Result<(), E> {
        let (wanted, wants) = (&mut self.wanted, self.rows);
        self.units.pass(bytes, last, &mut |next| {
            match next {
                Next::Unit { rows } => *wanted = rows == wants,
                Next::Bytes(bytes) if *wanted && !bytes.is_empty() => out(bytes)?,
                Next::Bytes(_) => {}
            }
            Ok(())
        })
    }
}

/// Gathers the units of a stream that may be definitions: not large objects, not what is too long for one.
pub struct UnitGatherer {
    units: Units,
    held: Held,
}

struct Held {
    dialect: Dialect,
    unit: Vec<u8>,
    gathered: Vec<u8>,
}

/// No definition is longer, in bytes.
const DEFINITION_MAX: usize = 1 << 20;

impl UnitGatherer {
    /// Of a stream of this dialect.
    pub fn new(dialect: Dialect) -> Self {
        Self { units: Units::new(dialect), held: Held { dialect, unit: Vec::new(), gathered: Vec::new() } }
    }

    /// The next bytes. Returns how many were gathered so far.
    pub fn pass(&mut self, bytes: &[u8], last: bool) -> usize {
        let held = &mut self.held;
        let Ok(()) = self.units.pass(bytes, last, &mut |next| -> Result<(), std::convert::Infallible> {
            match next {
                Next::Unit { .. } => held.end_unit(),
                Next::Bytes(bytes) => held.take_in(bytes),
            }
            Ok(())
        });
        if last {
            held.end_unit();
        }
        held.gathered.len()
    }

    /// What was gathered.
    pub fn finish(self) -> Vec<u8> {
        self.held.gathered
    }
}

impl Held {
    fn take_in(&mut self, bytes: &[u8]) {
        let room = (DEFINITION_MAX + 1).saturating_sub(self.unit.len());
        self.unit.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_unit(&mut self) {
        let statement = &self.unit[blank(self.dialect, &self.unit).unwrap_or(0)..];
        if self.unit.len() <= DEFINITION_MAX && !statement.starts_with(b"SELECT pg_catalog.lo") {
            self.gathered.extend_from_slice(&self.unit);
        }
        self.unit.clear();
    }
}
