//! The steps of the data path, one by one, on one thread: where a snapshot's time goes.
//!
//! `cargo bench --bench data_path [-- FILE]`: the data is FILE (its first 256 MiB), or made-up rows.
#![allow(clippy::print_stdout, reason = "a bench tells its figures")]

use std::hint::black_box;
use std::io::Read;
use std::time::Instant;

use alluvium::env::SystemEnv;
use alluvium::transform::chunk::Chunker;
use alluvium::transform::columnar::{self, Columnar};
use alluvium::transform::compress::{Compressor, Decompressor};
use alluvium::transform::delta;
use alluvium::transform::hash::{ChunkHasher, stream_digest};
use alluvium::transform::seal::{NONCE_LEN, SealKey};

const BYTES: u64 = 256 << 20;
const RUNS: usize = 5;

fn main() {
    let data = std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or_else(rows, |file| {
        let mut data = Vec::new();
        std::fs::File::open(file).expect("the file opens").take(BYTES).read_to_end(&mut data).expect("read");
        data
    });
    println!("{:.1} MB of data", data.len() as f64 / 1e6);
    for average in [16 << 10, 64 << 10, 256 << 10] {
        let chunker = Chunker::new(&[7; 32], average / 4, average, average * 4);
        step(&format!("cut, average {} KiB", average >> 10), data.len(), || black_box(cut(&chunker, &data).len()));
    }
    let chunks = cut(&Chunker::new(&[7; 32], 16 << 10, 64 << 10, 256 << 10), &data);
    let hasher = ChunkHasher::new([9; 32]);
    step("chunk ids (keyed BLAKE3)", data.len(), || chunks.iter().fold(0, |sum, c| sum ^ hasher.id(c).0[0] as usize));
    step("stream digest (BLAKE3)", data.len(), || stream_digest(&data)[0] as usize);
    for level in [1, 3] {
        let mut compressor = Compressor::new(level);
        let mut frames = Vec::new();
        step(&format!("zstd -{level}"), data.len(), || {
            frames.clear();
            frames.extend(chunks.iter().map(|c| compressor.compress(c).unwrap_or(c).to_vec()));
            frames.len()
        });
        let stored: usize = frames.iter().map(Vec::len).sum();
        println!("    {:.1} MB compressed", stored as f64 / 1e6);
        let (mut decompressor, mut raw) = (Decompressor::default(), vec![0; 1 << 20]);
        step(&format!("zstd -d of level {level}"), data.len(), || {
            for (chunk, frame) in chunks.iter().zip(&frames) {
                decompressor.decompress(frame, &mut raw[..chunk.len()]).expect("decompress");
            }
            raw[0] as usize
        });
        let key = SealKey::new(&[3; 32]);
        let mut buffers: Vec<Vec<u8>> = frames.iter().map(|f| [&[0; NONCE_LEN][..], f].concat()).collect();
        step("seal (XChaCha20-Poly1305)", stored, || {
            for buffer in &mut buffers {
                key.seal_in_place(&SystemEnv, b"associated", buffer);
                buffer.truncate(buffer.len() - 16);
            }
            buffers.len()
        });
    }
    columns(&data);
}

/// Chunks of rows by columns, as they are cut for it.
fn columns(data: &[u8]) {
    let chunks = cut(&Chunker::new(&[7; 32], 64 << 10, 256 << 10, 1 << 20).at_rows(), data);
    let (mut columnar, mut compressor) = (Columnar::new(1), Compressor::new(1));
    let mut encoded = Vec::new();
    step("columnar", data.len(), || {
        encoded.clear();
        encoded.extend(chunks.iter().map(|c| columnar.encode(c)));
        encoded.len()
    });
    let alone = |c: &[u8], zstd: &mut Compressor| zstd.compress(c).map_or(c.len(), <[u8]>::len);
    let zstd: usize = chunks.iter().map(|c| alone(c, &mut compressor)).sum();
    let best = chunks.iter().zip(&encoded).map(|(c, columnar)| {
        let alone = alone(c, &mut compressor);
        columnar.as_ref().map_or(alone, |columnar| columnar.len().min(alone))
    });
    println!(
        "    {:.1} MB, zstd alone {:.1} MB (256 KiB, level 1)",
        best.sum::<usize>() as f64 / 1e6,
        zstd as f64 / 1e6
    );
    let (mut decompressor, mut raw) = (Decompressor::default(), vec![0; 1 << 20]);
    step("columnar, decoding", data.len(), || {
        for (chunk, encoded) in chunks.iter().zip(&encoded) {
            if let Some(encoded) = encoded {
                columnar::decode(&mut decompressor, encoded, &mut raw[..chunk.len()]).expect("decode");
            }
        }
        raw[0] as usize
    });
    // Each chunk with a few bytes changed, as the difference to itself before.
    let changed = |chunk: &[u8]| {
        let mut changed = chunk.to_vec();
        (0..8).for_each(|n| changed[n * chunk.len() / 8] ^= 1);
        changed
    };
    let mut deltas = Vec::new();
    step("delta, eight bytes changed", data.len(), || {
        deltas.clear();
        deltas.extend(chunks.iter().map(|c| delta::encode(c, &changed(c))));
        deltas.len()
    });
    println!("    {:.2} MB", deltas.iter().flatten().map(Vec::len).sum::<usize>() as f64 / 1e6);
    step("delta, decoding", data.len(), || {
        for (chunk, encoded) in chunks.iter().zip(&deltas) {
            if let Some(encoded) = encoded {
                delta::decode(&mut decompressor, chunk, encoded, &mut raw[..chunk.len()]).expect("decode");
            }
        }
        raw[0] as usize
    });
}

fn cut<'d>(chunker: &Chunker, mut data: &'d [u8]) -> Vec<&'d [u8]> {
    let mut chunks = Vec::new();
    while !data.is_empty() {
        let (chunk, rest) = data.split_at(chunker.cut(data));
        chunks.push(chunk);
        data = rest;
    }
    chunks
}

fn step(name: &str, bytes: usize, mut work: impl FnMut() -> usize) {
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!("{name:28} {:7.0} MB/s", bytes as f64 / 1e6 / seconds[RUNS / 2]);
}

fn rows() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BYTES as usize + 128);
    let mut i = 0u64;
    while bytes.len() < BYTES as usize {
        let mixed = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
        bytes.extend_from_slice(format!("{i}\tuser{mixed}@example.com\t{}\t{}\n", mixed % 10_007, i / 3).as_bytes());
        i += 1;
    }
    bytes
}
