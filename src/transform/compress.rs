//! zstd (RFC 8878), one frame a chunk. The frame carries neither content size nor checksum: the blob's
//! entry has the length, its id is the checksum.

use zstd_safe::{CCtx, CParameter, DCtx, ErrorCode};

/// Compresses chunks at one level; kept per thread, so that its tables are allocated once.
pub struct Compressor {
    context: CCtx<'static>,
    frame: Vec<u8>,
}

impl Compressor {
    /// A compressor at zstd `level` (1 to 22, negative for faster).
    pub fn new(level: i32) -> Self {
        let mut context = CCtx::create();
        let mut set = |parameter| {
            context.set_parameter(parameter).expect("zstd knows its parameters");
        };
        set(CParameter::CompressionLevel(level));
        set(CParameter::ContentSizeFlag(false));
        set(CParameter::ChecksumFlag(false));
        Self { context, frame: Vec::new() }
    }

    /// The frame of `raw`, or `None` when it would not be shorter. It lies in a buffer that is used again.
    pub fn compress(&mut self, raw: &[u8]) -> Option<&[u8]> {
        if self.frame.len() < raw.len() {
            self.frame.resize(raw.len(), 0);
        }
        // A frame that does not fit into the raw length is of no use: zstd says so and that is all.
        let written = self.context.compress2(&mut self.frame[..raw.len()], raw).ok().filter(|n| *n < raw.len())?;
        Some(&self.frame[..written])
    }
}

/// Decompresses chunks; kept per thread.
pub struct Decompressor {
    context: DCtx<'static>,
}

impl Default for Decompressor {
    fn default() -> Self {
        Self { context: DCtx::create() }
    }
}

impl Decompressor {
    /// Decodes one frame into exactly `out`.
    ///
    /// # Errors
    /// What zstd says, or a length that differs from `out`'s.
    pub fn decompress(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(), String> {
        let written = self.context.decompress(out, frame);
        exactly(written, out)
    }

    /// Decodes one frame that refers to what stands in front of it into exactly `out`. `front` must not begin like a
    /// dictionary.
    ///
    /// # Errors
    /// As [`decompress`](Self::decompress).
    pub(super) fn decompress_behind(&mut self, front: &[u8], frame: &[u8], out: &mut [u8]) -> Result<(), String> {
        let written = self.context.decompress_using_dict(out, frame, front);
        exactly(written, out)
    }
}

fn exactly(written: Result<usize, ErrorCode>, out: &[u8]) -> Result<(), String> {
    match written.map_err(|code| format!("zstd: {}", zstd_safe::get_error_name(code)))? {
        n if n == out.len() => Ok(()),
        n => Err(format!("decompresses to {n} bytes instead of {}", out.len())),
    }
}
