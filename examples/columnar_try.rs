use alluvium::transform::{
    chunk::Chunker,
    columnar::{Columnar, decode},
    compress::{Compressor, Decompressor},
};
use std::time::{Duration, Instant};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let data = std::fs::read(&args[1]).unwrap();
    let avg: usize = args.get(2).map_or(256 << 10, |s| s.parse().unwrap());
    let level: i32 = args.get(3).map_or(1, |s| s.parse().unwrap());
    let chunker = Chunker::new(&[7; 32], avg / 4, avg, avg * 4);
    let mut col = Columnar::new(level);
    let mut plain = Compressor::new(level);
    let mut dec = Decompressor::default();
    let mut at = 0;
    let (mut te, mut td, mut tp, mut tpd) = (Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut total = [0usize; 4];
    let mut bucket: Vec<[usize; 4]> = vec![[0; 4]; data.len() / (16 << 20) + 1];
    while at < data.len() {
        let mut end = at + chunker.cut(&data[at..]);
        if end < data.len() {
            if let Some(n) = data[end..].iter().take(64 << 10).position(|b| *b == b'\n') {
                end += n + 1;
            }
        }
        let raw = &data[at..end];
        let t = Instant::now();
        let e = col.encode(raw);
        te += t.elapsed();
        let no_plain = std::env::var_os("NOPLAIN").is_some();
        let t = Instant::now();
        let p = if no_plain { raw.len() } else { plain.compress(raw).map_or(raw.len(), |f| f.len()) };
        tp += t.elapsed();
        let frame = if no_plain { None } else { plain.compress(raw).map(|f| f.to_vec()) };
        let mut out = vec![0; raw.len()];
        if let Some(f) = &frame {
            let t = Instant::now();
            dec.decompress(f, &mut out).unwrap();
            tpd += t.elapsed();
        }
        let c = match &e {
            Some(e) => {
                let t = Instant::now();
                decode(&mut dec, e, &mut out).unwrap();
                td += t.elapsed();
                assert!(out == raw);
                e.len()
            }
            None => usize::MAX,
        };
        for b in [&mut total, &mut bucket[at / (16 << 20)]] {
            b[0] += raw.len();
            b[1] += p;
            b[2] += c.min(p);
            if c < p {
                b[3] += 1
            }
        }
        at = end;
    }
    for (i, b) in bucket.iter().enumerate() {
        println!(
            "{i:3} plain {:5.2} columnar {:5.2} gain {:.2}",
            b[0] as f64 / b[1] as f64,
            b[0] as f64 / b[2] as f64,
            b[1] as f64 / b[2] as f64
        );
    }
    let mb = data.len() as f64 / 1e6;
    println!(
        "total {} plain {} columnar {} gain {:.3} | encode {:.0} decode {:.0} zstd {:.0} unzstd {:.0} MB/s",
        total[0],
        total[1],
        total[2],
        total[1] as f64 / total[2] as f64,
        mb / te.as_secs_f64(),
        mb / td.as_secs_f64(),
        mb / tp.as_secs_f64(),
        mb / tpd.as_secs_f64()
    );
}
