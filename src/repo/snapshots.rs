//! Reading what was published: headers with the index key, manifests with the data key.
//!
//! Manifests never change, so their sealed bytes are kept in the local cache: a listing reads the
//! storage only for what is new.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use crate::error::{Error, Kind, Result};
use crate::format::coordination::Generation;
use crate::format::keyslot::SlotKind;
use crate::format::limits::MANIFEST_BYTES_MAX;
use crate::format::manifest::{self, Digest, Header, Listing, Manifest, Part, PartList, Published, SealedManifest};
use crate::format::part::bytes_of;
use crate::format::signed::Claim;
use crate::format::{ObjectKind, associated_data, epoch};
use crate::id::{SlotId, SnapshotId};
use crate::report::{Problem, Report};
use crate::storage::Listed;
use crate::transform::hash::{StreamHasher, stream_digest};

use super::Repository;
use super::keys::Keys;
use super::parallel::{at_once, each};
use super::ring::KnownSlot;
use super::series::{Contradiction, Member, effective_times};

/// A snapshot with its manifest.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its name.
    pub id: SnapshotId,
    /// The slot that signed it.
    pub author: SlotId,
    /// What it says.
    pub manifest: Manifest,
    /// When it was taken, as far as that is believed ([`super::series`]). Of a snapshot that was
    /// read without the others of its series: what it says.
    pub effective_time: Timestamp,
    /// Its author's claims of that time are distrusted ([`Repository::mark_distrusted`]).
    pub is_distrusted: bool,
    /// Why the time that it says is not believed.
    pub time_contradicts: Option<Contradiction>,
}

impl Snapshot {
    /// A snapshot whose time is believed.
    pub fn new(id: SnapshotId, author: SlotId, manifest: Manifest) -> Self {
        let effective_time = manifest.time;
        Self { id, author, manifest, effective_time, is_distrusted: false, time_contradicts: None }
    }

    /// The order of snapshots of any series: by effective time, and within a series by the chain.
    pub fn order(&self) -> (Timestamp, u64, SnapshotId) {
        (self.effective_time, self.manifest.sequence, self.id)
    }
}

/// Decides which times to believe, and sorts: the newest first. What is only the claim of a slot, by
/// `claimant`, is judged by itself: it bends the times of no other.
pub fn judge_times(snapshots: &mut [Snapshot], now: Timestamp, claimant: impl Fn(&Snapshot) -> Option<SlotId>) {
    let members = snapshots.iter().map(|snapshot| Member {
        id: snapshot.id,
        series: (&snapshot.manifest.host, &snapshot.manifest.source, claimant(snapshot)),
        sequence: snapshot.manifest.sequence,
        time: snapshot.manifest.time,
    });
    let times = effective_times(members, now);
    let contradictions: HashMap<_, _> = times.contradictions.iter().map(|c| (c.snapshot, *c)).collect();
    for snapshot in &mut *snapshots {
        snapshot.effective_time = times.effective[&snapshot.id];
        snapshot.time_contradicts = contradictions.get(&snapshot.id).copied();
    }
    snapshots.sort_by_key(|snapshot| Reverse(snapshot.order()));
}

/// What stands under a snapshot's name, and who signed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A manifest.
    Manifest(SlotId),
    /// A fence.
    Fence(SlotId),
}

/// What could be read, and the error of each that could not.
pub type Readable<T> = (Vec<T>, Vec<(SnapshotId, Error)>);

/// The write-only slots that signed snapshots.
pub type Writers = HashMap<SnapshotId, SlotId>;

impl Repository {
    /// The names under `snapshots/`, fences included.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list_snapshots(&self) -> Result<BTreeSet<SnapshotId>> {
        self.snapshot_ids(&self.storage.list(manifest::PREFIX)?)
    }

    /// The ids of a listing. A fence may stand where a snapshot was forgotten: its manifest is not remembered any longer.
    pub(super) fn snapshot_ids(&self, listed: &[Listed]) -> Result<BTreeSet<SnapshotId>> {
        let fences: Vec<Listed> = listed.iter().filter(|object| object.size == manifest::FENCE_LEN).cloned().collect();
        if !fences.is_empty() {
            let remembered = self.cache.manifests()?;
            let fenced: Vec<SnapshotId> = ids(&fences).into_iter().filter(|id| remembered.contains(id)).collect();
            if !fenced.is_empty() {
                self.cache.forget_manifests(&fenced)?;
            }
        }
        Ok(ids(listed))
    }

    /// Every snapshot, newest first, and the error of each that can't be read.
    ///
    /// # Errors
    /// `WrongKey` from a write-only slot; `Storage`.
    pub fn snapshots(&self) -> Result<Readable<Snapshot>> {
        self.sorted_snapshots(&self.list_snapshots()?, false)
    }

    /// As [`snapshots`](Self::snapshots), of a listing that was made before.
    ///
    /// # Errors
    /// As [`snapshots`](Self::snapshots).
    pub fn snapshots_among(&self, listed: &BTreeSet<SnapshotId>) -> Result<Readable<Snapshot>> {
        self.sorted_snapshots(listed, false)
    }

    /// As [`snapshots`](Self::snapshots), each read from the storage even where the cache has it.
    ///
    /// # Errors
    /// As [`snapshots`](Self::snapshots).
    pub fn snapshots_afresh(&self) -> Result<Readable<Snapshot>> {
        self.sorted_snapshots(&self.list_snapshots()?, true)
    }

    fn sorted_snapshots(&self, listed: &BTreeSet<SnapshotId>, afresh: bool) -> Result<Readable<Snapshot>> {
        self.keys.require_full("reading snapshots")?;
        let (mut snapshots, unreadable) =
            self.published(listed, afresh, |id, sealed| self.open_snapshot(id, sealed))?;
        judge_times(&mut snapshots, self.env.now(), |snapshot| self.claimant(snapshot));
        Ok((snapshots, unreadable))
    }

    /// Every snapshot's header, and the error of each that can't be read. Any slot may.
    ///
    /// # Errors
    /// `Storage`.
    pub fn headers(&self) -> Result<Readable<(SnapshotId, Header)>> {
        Ok(self.headers_and_writers()?.0)
    }

    /// As [`headers`](Self::headers), and the slots of those that write-only slots signed.
    ///
    /// # Errors
    /// `Storage`.
    pub fn headers_and_writers(&self) -> Result<(Readable<(SnapshotId, Header)>, Writers)> {
        self.headers_among(&self.list_snapshots()?)
    }

    fn headers_among(&self, listed: &BTreeSet<SnapshotId>) -> Result<(Readable<(SnapshotId, Header)>, Writers)> {
        let (signed, unreadable) = self.published(listed, false, |id, sealed| {
            let name = manifest::object_name(id);
            let (claim, header) = self.open_header(&name, sealed)?;
            Ok((claim.author, (id, header)))
        })?;
        let is_claim = |(author, _): &&(SlotId, (SnapshotId, Header))| !self.keys.is_full(*author);
        let writers = signed.iter().filter(is_claim).map(|(author, (id, _))| (*id, *author)).collect();
        Ok(((signed.into_iter().map(|(_, header)| header).collect(), unreadable), writers))
    }

    /// Those of `headers` that a new snapshot may follow: of full slots and of this one, and not distrusted. What
    /// another write-only slot says of a source is no standard for its length, nor for the next sequence.
    ///
    /// # Errors
    /// `Storage`.
    pub fn to_follow(&self, headers: &[(SnapshotId, Header)], state: &Generation) -> Result<Vec<(SnapshotId, Header)>> {
        let is_write_only = |known: &KnownSlot| known.certificate.kind == SlotKind::WriteOnly;
        if state.distrusted_slots.is_empty() && !self.keys.ring().slots.values().any(is_write_only) {
            return Ok(headers.to_vec());
        }
        let ids: BTreeSet<SnapshotId> = headers.iter().map(|(id, _)| *id).collect();
        let (authors, _) = self.published(&ids, false, |id, sealed| {
            Ok((id, self.open_header(&manifest::object_name(id), sealed)?.0.author))
        })?;
        let authors: HashMap<SnapshotId, SlotId> = authors.into_iter().collect();
        let written = self.written_manifests(state)?;
        let may_be_followed = |(id, header): &&(SnapshotId, Header)| {
            let time = written.get(id).map_or(header.time, |written| header.time.max(*written));
            authors.get(id).is_some_and(|author| {
                (*author == self.keys.slot() || self.keys.is_full(*author)) && !state.distrusts(*author, time)
            })
        };
        Ok(headers.iter().filter(may_be_followed).cloned().collect())
    }

    /// When the storage wrote each manifest, as far as it says; nothing where no slot is distrusted.
    fn written_manifests(&self, state: &Generation) -> Result<HashMap<SnapshotId, Timestamp>> {
        if state.distrusted_slots.is_empty() {
            return Ok(HashMap::new());
        }
        let written = |object: &Listed| Some((id_of(&object.name)?, object.modified?));
        Ok(self.storage.list(manifest::PREFIX)?.iter().filter_map(written).collect())
    }

    /// Who signed a snapshot; `None` when there is none.
    ///
    /// # Errors
    /// `Damaged`, `Storage`.
    pub fn author(&self, id: SnapshotId) -> Result<Option<SlotId>> {
        Ok(match self.name_taken_by(id)? {
            Some(Taken::Manifest(author)) => Some(author),
            Some(Taken::Fence(_)) | None => None,
        })
    }

    /// What stands under a snapshot's name, if anything.
    ///
    /// # Errors
    /// `Damaged` when it is neither a manifest nor a fence that a slot of this repository signed; `Storage`.
    pub fn name_taken_by(&self, id: SnapshotId) -> Result<Option<Taken>> {
        let name = manifest::object_name(id);
        let bytes = match self.storage.get(&name, MANIFEST_BYTES_MAX) {
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            read => read?,
        };
        Ok(Some(match manifest::decode(&bytes).map_err(|e| e.in_object(&name))? {
            Published::Manifest(sealed) => Taken::Manifest(self.open_header(&name, &sealed)?.0.author),
            Published::Fence(sealed) => Taken::Fence(self.open_fence(&name, sealed)?),
        }))
    }

    fn open_fence(&self, name: &str, sealed: &[u8]) -> Result<SlotId> {
        Ok(self.open_claim(ObjectKind::Fence, name, name.as_bytes(), sealed)?.0.author)
    }

    /// True when an unreadable object under `snapshots/` was certainly a manifest: this machine has read it,
    /// a readable snapshot of a full slot names it as its predecessor, or its session wrote a pack with a
    /// full slot. Anybody who may create objects can put another one there, and a write-only slot can say all of
    /// that of it. One that only can't be verified is no reason to stop: it
    /// is never removed, and prune keeps what it needs.
    ///
    /// # Errors
    /// Of the local cache.
    pub fn is_vouched(&self, id: SnapshotId, error: &Error, snapshots: &[Snapshot]) -> Result<bool> {
        if error.kind() != Kind::Damaged {
            return Ok(true);
        }
        if self.is_nonsense_as_signed(id)? {
            return Ok(false);
        }
        Ok(!error.is_forged()
            && !error.is_unverified()
            && (self.cache.manifests()?.contains(&id)
                || self.seen.is_head(id)
                || snapshots.iter().any(|s| s.manifest.previous == Some(id) && self.keys.is_full(s.author))
                || self.cache.packs()?.iter().any(|pack| pack.session == id && self.keys.is_full(pack.claim.author))))
    }

    /// The write-only slot that wrote a snapshot, or the snapshot that it is a copy of. What such a slot says of
    /// another author counts for nothing.
    pub fn write_only_author(&self, snapshot: &Snapshot) -> Option<SlotId> {
        let author = Some(snapshot.author).filter(|author| !self.keys.is_full(*author));
        author.or(snapshot.manifest.original_author)
    }

    /// The slot that a snapshot is only a claim of: its [write-only author](Self::write_only_author), or any
    /// slot whose claims of that time are distrusted.
    pub fn claimant(&self, snapshot: &Snapshot) -> Option<SlotId> {
        if snapshot.is_distrusted { Some(snapshot.author) } else { self.write_only_author(snapshot) }
    }

    /// Marks the snapshots of slots that `state` distrusts, and judges the times of the others without them. The
    /// order is that of [`snapshots`](Self::snapshots).
    ///
    /// A snapshot is as new as it says, or as the storage says, whatever is later.
    ///
    /// # Errors
    /// `Storage`.
    pub fn mark_distrusted(&self, snapshots: &mut [Snapshot], state: &Generation) -> Result<()> {
        if state.distrusted_slots.is_empty() {
            return Ok(());
        }
        let written = self.written_manifests(state)?;
        for snapshot in &mut *snapshots {
            let stored = written.get(&snapshot.id);
            let time = stored.map_or(snapshot.manifest.time, |stored| snapshot.manifest.time.max(*stored));
            snapshot.is_distrusted = state.distrusts(snapshot.author, time);
        }
        judge_times(snapshots, self.env.now(), |snapshot| self.claimant(snapshot));
        Ok(())
    }

    /// What the storage shows compared with what this machine has seen of it ([`super::seen`]): each thing that is
    /// older than it was is a problem.
    ///
    /// # Errors
    /// `Storage`.
    pub fn older_than_seen(&self, report: &dyn Report) -> Result<Vec<Problem>> {
        let (generation, _) = self.probe_generation()?;
        self.older_among(&self.list_snapshots()?, generation, report)
    }

    /// As [`older_than_seen`](Self::older_than_seen), of a listing and a generation that were read before.
    ///
    /// # Errors
    /// `Storage`.
    pub fn older_among(
        &self,
        listed: &BTreeSet<SnapshotId>,
        generation: u64,
        report: &dyn Report,
    ) -> Result<Vec<Problem>> {
        let ((headers, _), writers) = self.headers_among(listed)?;
        let mut older = self.seen.compare(self.storage.as_ref(), generation, &headers, &writers, report)?;
        older.extend(self.seen.compare_epoch(self.keys.newest_epoch(), report)?);
        Ok(older)
    }

    /// As [`older_among`](Self::older_among), with a listing of the generations. No more requests
    /// are made unless something seems to be older.
    ///
    /// # Errors
    /// `Storage`.
    pub fn older_by_listing(&self, listed: &BTreeSet<SnapshotId>, report: &dyn Report) -> Result<Vec<Problem>> {
        self.older_among(listed, self.known_generation()?, report)
    }

    /// One snapshot by its full name.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, `WrongKey`, `Storage`.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Snapshot> {
        self.open_published(id, false, &|id, sealed| self.open_snapshot(id, sealed))?
            .ok_or_else(|| Error::new(Kind::NotFound, format!("{id} is the fence of a dead session, not a snapshot")))
    }

    /// The header, with who signed it: the signature covers the whole object.
    fn open_header(&self, name: &str, sealed: &SealedManifest<'_>) -> Result<(Claim, Header)> {
        let opened = self.open_claim(ObjectKind::ManifestHeader, name, name.as_bytes(), sealed.header)?;
        Self::decode_header(name, sealed, opened)
    }

    fn decode_header(
        name: &str,
        sealed: &SealedManifest<'_>,
        (claim, plain): (Claim, Vec<u8>),
    ) -> Result<(Claim, Header)> {
        let header = Header::decode(&plain).map_err(|e| e.in_object(name))?;
        if header.body != manifest::body_digest(&sealed.key, sealed.body) {
            return Err(Error::damaged(name, "its body is not the one that was signed"));
        }
        Ok((claim, header))
    }

    fn open_snapshot(&self, id: SnapshotId, sealed: &SealedManifest<'_>) -> Result<Snapshot> {
        let opened = self.open_header(&manifest::object_name(id), sealed)?;
        self.open_body(id, sealed, opened)
    }

    /// A snapshot whose author can't be verified, for what it needs: that must stay.
    ///
    /// # Errors
    /// `Damaged`, `NotFound`, `Storage`.
    pub fn unverified_snapshot(&self, id: SnapshotId) -> Result<Snapshot> {
        let name = manifest::object_name(id);
        let bytes = self.storage.get(&name, MANIFEST_BYTES_MAX)?;
        let Published::Manifest(sealed) = manifest::decode(&bytes).map_err(|e| e.in_object(&name))? else {
            return Err(Error::damaged(name, "is a fence"));
        };
        let kind = ObjectKind::ManifestHeader;
        let opened = self.keys.open_unverified(kind, &name, name.as_bytes(), sealed.header)?;
        self.open_body(id, &sealed, Self::decode_header(&name, &sealed, opened)?)
    }

    /// True for a manifest whose data key names a key epoch that is there and does not open.
    ///
    /// # Errors
    /// `Storage`.
    pub fn is_of_unreadable_epoch(&self, id: SnapshotId) -> Result<bool> {
        let bytes = self.stored_bytes(id)?;
        let Ok(Published::Manifest(sealed)) = manifest::decode(&bytes) else { return Ok(false) };
        let (epoch, newest) = (sealed.key.epoch, self.keys.newest_epoch());
        if self.keys.ring().may_be_unreadable(epoch) {
            return Ok(true);
        }
        // A listing may hide the next epoch.
        Ok(epoch > newest && self.storage.stat(&epoch::object_name(newest.saturating_add(1)))?.is_some())
    }

    /// What stands under a snapshot's name; empty when nothing does, or something too long.
    fn stored_bytes(&self, id: SnapshotId) -> Result<Vec<u8>> {
        match self.storage.get(&manifest::object_name(id), MANIFEST_BYTES_MAX) {
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Damaged) => Ok(Vec::new()),
            read => read,
        }
    }

    /// True for a manifest that is as a write-only slot signed it, and can't be read although this slot has what
    /// opens it: it was never whole, and nothing was damaged.
    ///
    /// # Errors
    /// `Storage`.
    pub fn is_nonsense_as_signed(&self, id: SnapshotId) -> Result<bool> {
        let bytes = self.stored_bytes(id)?;
        let Ok(Published::Manifest(sealed)) = manifest::decode(&bytes) else { return Ok(false) };
        let Ok((claim, _)) = self.open_header(&manifest::object_name(id), &sealed) else { return Ok(false) };
        let ring = self.keys.ring();
        let has_secrets = match ring.epochs.get(&sealed.key.epoch) {
            Some(known) => known.secrets.is_some(),
            None => sealed.key.epoch > ring.newest().0,
        };
        Ok(has_secrets && !self.keys.is_full(claim.author))
    }

    fn open_body(
        &self,
        id: SnapshotId,
        sealed: &SealedManifest<'_>,
        (claim, header): (Claim, Header),
    ) -> Result<Snapshot> {
        let name = manifest::object_name(id);
        let key = self.keys.open_data_key(&sealed.key).map_err(|e| e.during(&name))?;
        let plain = key
            .open(
                &associated_data(ObjectKind::ManifestBody, self.id, &manifest::body_name(&name, &sealed.key)),
                sealed.body,
            )
            .ok_or_else(|| Error::damaged(&name, "does not open: altered, swapped, or from another repository"))?;
        let manifest = Manifest::decode(&plain).map_err(|e| e.in_object(&name))?;
        // Writers see the headers only, readers the bodies: both are shown the same chain.
        let said = (header.time, header.sequence, header.bytes, header.previous, header.series);
        let series = self.keys.hasher.series(&manifest.host, &manifest.source);
        if said != (manifest.time, manifest.sequence, manifest.bytes(), manifest.previous, series) {
            return Err(Error::damaged(&name, "its header and its body contradict each other"));
        }
        Ok(Snapshot::new(id, claim.author, manifest))
    }

    fn published<T>(
        &self,
        listed: &BTreeSet<SnapshotId>,
        afresh: bool,
        open: impl Fn(SnapshotId, &SealedManifest<'_>) -> Result<T> + Sync,
    ) -> Result<Readable<T>>
    where
        T: Send,
    {
        self.cache.retain_manifests(listed)?;
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        let listed: Vec<_> = listed.iter().copied().collect();
        let opened = each(at_once(self.storage.as_ref()), &listed, |&id| self.open_published(id, afresh, &open));
        for (id, opened) in listed.into_iter().zip(opened) {
            match opened {
                Ok(opened) => found.extend(opened),
                // Forgotten since it was listed.
                Err(e) if e.kind() == Kind::NotFound => {}
                // Damaged, or on a bad block: the others are readable.
                Err(e) if matches!(e.kind(), Kind::Damaged | Kind::Storage) => unreadable.push((id, e)),
                Err(e) => return Err(e),
            }
        }
        Ok((found, unreadable))
    }

    /// Opens what stands under a manifest's name; `None` for a fence. What opened is kept in the cache; what
    /// the cache has and does not open is read again.
    fn open_published<T>(
        &self,
        id: SnapshotId,
        afresh: bool,
        open: &impl Fn(SnapshotId, &SealedManifest<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let name = manifest::object_name(id);
        let open = |bytes: &[u8]| match manifest::decode(bytes).map_err(|e| e.in_object(&name))? {
            Published::Manifest(sealed) => open(id, &sealed).map(Some),
            Published::Fence(sealed) => self.open_fence(&name, sealed).map(|_| None),
        };
        if !afresh
            && let Some(bytes) = self.cache.manifest(&id)?
            && let Ok(opened) = open(&bytes)
        {
            return Ok(opened);
        }
        let bytes = self.storage.get(&name, MANIFEST_BYTES_MAX)?;
        let opened = open(&bytes)?;
        self.cache.put_manifest(&id, &bytes)?;
        Ok(opened)
    }
}

/// The ids of the objects of `snapshots/`.
pub(super) fn ids(listed: &[Listed]) -> BTreeSet<SnapshotId> {
    listed.iter().filter_map(|o| id_of(&o.name)).collect()
}

fn id_of(name: &str) -> Option<SnapshotId> {
    name.strip_prefix(manifest::PREFIX)?.parse().ok()
}

/// What a manifest says of a stream that was cut into `parts`: the digest of the only one; of several the digest of
/// their digests.
pub fn digest_of_stream(parts: &[Part]) -> Digest {
    digest_of_digests(bytes_of(parts), parts.len() as u64, &mut |take| {
        for part in parts {
            take(&part.digest.blake3);
        }
    })
}

/// Gives digests, one after the other.
pub type Each<'e> = &'e mut dyn FnMut(&mut dyn FnMut(&[u8; 32]));

/// As [`digest_of_stream`], of `bytes` in `count` parts whose digests `each` gives in order.
pub fn digest_of_digests(bytes: u64, count: u64, each: Each<'_>) -> Digest {
    let (mut hasher, mut last) = (StreamHasher::new(), stream_digest(b""));
    each(&mut |digest| {
        hasher.update(digest);
        last = *digest;
    });
    Digest { bytes, blake3: if count == 1 { last } else { *hasher.finalize().as_bytes() } }
}

/// Sums up a list of parts, part by part.
#[derive(Default)]
pub struct ListSummary {
    count: u64,
    bytes: u64,
    hasher: StreamHasher,
}

impl ListSummary {
    /// The next part of the list.
    pub fn add(&mut self, part: &Part) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(part.digest.bytes);
        self.hasher.update(&part.identity());
    }

    /// The list, which is there.
    pub fn list(self, list: Listing) -> PartList {
        let Self { count, bytes, hasher } = self;
        PartList { count, bytes, blake3: *hasher.finalize().as_bytes(), list }
    }
}

/// A list of parts that stands in the manifest.
pub fn inline_list(parts: Vec<Part>) -> PartList {
    let mut summary = ListSummary::default();
    for part in &parts {
        summary.add(part);
    }
    summary.list(Listing::Inline(parts))
}

/// A series that another slot went on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeOfAuthor {
    /// The first snapshot of the other slot.
    pub snapshot: SnapshotId,
    /// What it is a backup of.
    pub source: String,
    /// Where it was taken.
    pub host: String,
    /// The slot that took it.
    pub now: SlotId,
    /// The slot that took the one before.
    pub before: SlotId,
}

impl ChangeOfAuthor {
    /// For people.
    pub fn describe(&self, keys: &Keys) -> String {
        format!(
            "`{}` of {}: snapshot {} was taken with another passphrase than the one before: {}, was {}",
            self.source.escape_debug(),
            self.host.escape_debug(),
            self.snapshot,
            keys.slot_name(self.now),
            keys.slot_name(self.before),
        )
    }
}

/// Where a series, in the order of its chain, passes from one slot to another: to a new passphrase, or to
/// a thief's.
pub fn changes_of_author(snapshots: &[Snapshot]) -> Vec<ChangeOfAuthor> {
    let mut chain: Vec<&Snapshot> = snapshots.iter().collect();
    let series = |s: &Snapshot| (s.manifest.host.clone(), s.manifest.source.clone());
    chain.sort_by_key(|s| (series(s), s.manifest.sequence, s.manifest.time, s.id));
    let pairs = chain.windows(2).filter(|pair| series(pair[0]) == series(pair[1]) && pair[0].author != pair[1].author);
    let change = |pair: &[&Snapshot]| ChangeOfAuthor {
        snapshot: pair[1].id,
        source: pair[1].manifest.source.clone(),
        host: pair[1].manifest.host.clone(),
        now: pair[1].author,
        before: pair[0].author,
    };
    pairs.map(change).collect()
}
