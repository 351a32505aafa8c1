//! The ordering rules by name, each asked for at the one place that keeps it (`docs/protocol.md`).
//!
//! Every repository keeps all of them. The simulation switches one off at a time and must find the loss: a rule
//! that can go without a loss being found is not tested, or not needed.

/// What keeps stored data safe from everybody else at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// I1: index objects are durable before the manifest that leads to their packs.
    IndexBeforeManifest,
    /// I4: a writer makes its session known before it relies on anything.
    Register,
    /// I4: nobody relies on a condemned pack.
    AvoidCondemned,
    /// I4: a generation says what is condemned before any of it is deleted.
    CondemnFirst,
    /// I4: a pack that was condemned once stays condemned until it is gone.
    StayCondemned,
    /// I4: a condemned pack waits for the sessions that began before.
    Wait,
    /// I4: a session that is taken for dead is kept from publishing.
    Fence,
    /// I4: snapshots published since the survey are marked before anything is deleted.
    MarkAgain,
    /// I4: where several copies of a needed chunk may be about to go, all of them are spared.
    SpareCopies,
    /// I4: a publication whose outcome is not known is settled before the session ends.
    Settle,
    /// I4: the listings that a deletion rests on are not older than the condemnation.
    ProveListing,
    /// I5: every pack relied on is there when the manifest is published.
    PacksThere,
    /// I6: a listing that lacks what is known to exist stops a prune.
    DoubtListing,
    /// I7: a new index object is published before the ones that it covers go.
    IndexCovers,
    /// Repacked blobs are durable elsewhere before their pack is condemned.
    RepackFirst,
    /// What a needed delta is the difference to is needed.
    MarkBases,
    /// A writer relies on the bases of the deltas that it relies on.
    RelyOnBases,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::IndexBeforeManifest,
        Self::Register,
        Self::AvoidCondemned,
        Self::CondemnFirst,
        Self::StayCondemned,
        Self::Wait,
        Self::Fence,
        Self::MarkAgain,
        Self::SpareCopies,
        Self::Settle,
        Self::ProveListing,
        Self::PacksThere,
        Self::DoubtListing,
        Self::IndexCovers,
        Self::RepackFirst,
        Self::MarkBases,
        Self::RelyOnBases,
    ];
}

/// Which rules a repository keeps: all of them, outside the simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    without: Option<Rule>,
}

impl Rules {
    /// All rules but one. **Loses data**: that is what it is for.
    pub const fn all_but(rule: Rule) -> Self {
        Self { without: Some(rule) }
    }

    /// True when `rule` is kept.
    pub fn keep(self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
