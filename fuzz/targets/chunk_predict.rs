//! Cutting with the previous recipe at hand gives exactly the cuts of scanning, whatever was edited.
//!
//! The loop is the writer's (`repo::writer`) without threads and storage: a guess whose bytes have the
//! guessed id is taken, else the chunker scans.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;

use alluvium::format::recipe::RecipeEntry;
use alluvium::repo::predict::Prediction;
use alluvium::transform::chunk::Chunker;
use alluvium::transform::hash::ChunkHasher;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

/// As small as the format allows, so that small inputs have many chunks.
static CHUNKER: LazyLock<Chunker> = LazyLock::new(|| Chunker::new(&[5; 32], 64, 256, 1024));
static HASHER: LazyLock<ChunkHasher> = LazyLock::new(|| ChunkHasher::new([6; 32]));

fn scan(data: &[u8]) -> Vec<RecipeEntry> {
    let mut rest = data;
    let mut recipe = Vec::new();
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(CHUNKER.cut(rest));
        recipe.push(RecipeEntry { id: HASHER.id(chunk), len: chunk.len() as u32 });
        rest = after;
    }
    recipe
}

fn predict(data: &[u8], before: &[RecipeEntry]) -> (Vec<RecipeEntry>, usize) {
    let mut prediction = Prediction::new(before.iter().copied().map(Ok));
    let mut rest = data;
    let (mut recipe, mut guessed) = (Vec::new(), 0);
    while !rest.is_empty() {
        let guess = prediction.guess();
        let hit = guess.filter(|g| rest.get(..g.len as usize).is_some_and(|chunk| HASHER.id(chunk) == g.id));
        let entry = hit.unwrap_or_else(|| {
            if guess.is_some() {
                prediction.miss();
            }
            let len = CHUNKER.cut(rest);
            RecipeEntry { id: HASHER.id(&rest[..len]), len: len as u32 }
        });
        guessed += usize::from(hit.is_some());
        prediction.advance(&entry.id);
        rest = &rest[entry.len as usize..];
        recipe.push(entry);
    }
    (recipe, guessed)
}

/// Some pieces: of the input itself, of one byte, of what came before, of bytes without a pattern.
fn stream(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    for _ in 0..u.int_in_range(1..=6)? {
        let n = usize::from(u.arbitrary::<u16>()?) % 6000;
        match u.int_in_range(0..=3)? {
            0 => data.extend_from_slice(u.bytes(n.min(u.len()))?),
            1 => data.extend(std::iter::repeat_n(u.arbitrary::<u8>()?, n)),
            2 => data.extend_from_within(..n.min(data.len())),
            _ => {
                let mut seed = u.arbitrary::<u32>()?;
                data.extend(
                    std::iter::repeat_with(|| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (seed >> 24) as u8
                    })
                    .take(n),
                );
            }
        }
    }
    Ok(data)
}

fn edit(u: &mut Unstructured<'_>, mut data: Vec<u8>) -> Result<Vec<u8>> {
    for _ in 0..u.int_in_range(0..=4)? {
        let at = usize::from(u.arbitrary::<u16>()?) % (data.len() + 1);
        let to = (at + usize::from(u.arbitrary::<u16>()?) % 3000).min(data.len());
        match u.int_in_range(0..=2)? {
            0 => drop(data.drain(at..to)),
            1 => {
                let copied = data[at..to].to_vec();
                data.splice(at..at, copied);
            }
            _ => {
                if let Some(byte) = data.get_mut(at) {
                    *byte = u.arbitrary()?;
                }
            }
        }
    }
    Ok(data)
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let before = stream(u)?;
    let after = edit(u, before.clone())?;
    let (recipe, scanned) = (scan(&before), scan(&after));
    let lengths: HashMap<_, _> = recipe.iter().map(|entry| (entry.id, entry.len)).collect();
    assert!(scanned.iter().all(|entry| lengths.get(&entry.id).is_none_or(|&len| len == entry.len)));
    let (predicted, guessed) = predict(&after, &recipe);
    assert!(predicted == scanned, "prediction moved a cut");
    if before == after {
        assert!(guessed + 2 >= scanned.len(), "an unchanged stream is guessed: {guessed} of {}", scanned.len());
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    let _ = run(&mut Unstructured::new(input));
});
