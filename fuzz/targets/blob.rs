//! Blobs: any bytes go in and come out, what was altered never opens, and no frame writes past its buffer.
//!
//! The input's first eight bytes choose what is altered; the rest is the blob, the sealed bytes, the frame.
#![no_main]

use std::cell::RefCell;

use alluvium::env::Env;
use alluvium::format::pack::{BlobEntry, Codec, WrappedKey};
use alluvium::id::{BlobId, RepoId};
use alluvium::repo::blob::{BlobDecoder, BlobEncoder, Opening};
use alluvium::repo::keys::DataKey;
use alluvium::transform::compress::Decompressor;
use alluvium::transform::hash::{ChunkHasher, data_key_id};
use alluvium::transform::seal::SealKey;
use alluvium_fuzz::{Still, number};
use libfuzzer_sys::fuzz_target;

const REPO: RepoId = RepoId([7; 16]);
const KEY: [u8; 32] = [9; 32];

struct Bench {
    env: Still,
    key: DataKey,
    hasher: ChunkHasher,
    encoder: BlobEncoder,
    decoder: BlobDecoder,
    decompressor: Decompressor,
}

impl Bench {
    fn new() -> Self {
        // Only the key's id counts here; nobody opens the wrapped one.
        let wrapped = WrappedKey { id: data_key_id(&KEY), epoch: 1, kem_output: [0; 1120], sealed: [0; 48] };
        Self {
            env: Still::default(),
            key: DataKey { key: SealKey::new(&KEY), wrapped },
            hasher: ChunkHasher::new([3; 32]),
            encoder: BlobEncoder::new(REPO, 3),
            decoder: BlobDecoder::default(),
            decompressor: Decompressor::default(),
        }
    }

    fn decode(&mut self, entry: &BlobEntry, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = vec![0; entry.raw_len as usize];
        let with = Opening { repo: REPO, hasher: Some(&self.hasher), key: &self.key.key, key_id: self.key.wrapped.id };
        self.decoder.decode(with, entry, &mut sealed.to_vec(), None, &mut out)?;
        Ok(out)
    }

    fn try_all(&mut self, choice: u64, input: &[u8]) {
        let id = self.hasher.id(input);
        let blob = self.encoder.encode(&self.env, &self.key, id, input, &[]).expect("this machine computes rightly");
        assert_eq!(self.decode(&blob.entry, &blob.bytes).as_deref(), Ok(input), "it comes back");

        let mut altered = blob.bytes.clone();
        let place = choice as usize / 8 % altered.len();
        altered[place] ^= 1 << (choice % 8);
        assert!(self.decode(&blob.entry, &altered).is_err(), "one flipped bit");
        assert!(self.decode(&blob.entry, &blob.bytes[..place]).is_err(), "cut off");
        assert!(self.decode(&blob.entry, &[&blob.bytes[..], &[0]].concat()).is_err(), "extended");
        for entry in altered_entries(&blob.entry, choice) {
            assert!(self.decode(&entry, &blob.bytes).is_err(), "{entry:?} for {:?}", blob.entry);
        }

        // Bytes that nobody sealed. Without the key there are 2^128 tags to guess.
        let raw_len = (choice % 4096) as u32;
        let entry = BlobEntry { id, codec: Codec::Zstd, raw_len, stored_len: input.len() as u32, base: None };
        assert!(self.decode(&entry, input).is_err(), "opened what was never sealed");

        // What a holder of the key may seal: any frame. It fills its buffer exactly, or is refused.
        let mut out = vec![0; raw_len as usize + 16];
        let (frame_out, beyond) = out.split_at_mut(raw_len as usize);
        let _ = self.decompressor.decompress(input, frame_out);
        assert_eq!(*beyond, [0; 16], "wrote past its buffer");
        let name = alluvium::format::associated_data(alluvium::format::ObjectKind::Blob, REPO, b"something else");
        let mut sealed = vec![0; 24];
        self.env.fill_random(&mut sealed);
        sealed.extend_from_slice(input);
        self.key.key.seal_in_place(&self.env, &name, &mut sealed);
        assert!(self.decode(&entry, &sealed).is_err(), "sealed for another purpose");
    }
}

/// The entry with each of its fields altered.
fn altered_entries(entry: &BlobEntry, choice: u64) -> [BlobEntry; 3] {
    let mut id = entry.id;
    id.0[choice as usize % BlobId::LEN] ^= 1;
    let codec = if entry.codec == Codec::Raw { Codec::Zstd } else { Codec::Raw };
    [
        BlobEntry { id, ..entry.clone() },
        BlobEntry { codec, ..entry.clone() },
        BlobEntry { raw_len: entry.raw_len ^ (1 << (choice % 12)), ..entry.clone() },
    ]
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|input: &[u8]| {
    let (choice, rest) = number(input);
    BENCH.with_borrow_mut(|bench| bench.try_all(choice, rest));
});
