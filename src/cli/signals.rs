//! Ctrl-C and SIGTERM. The first asks all work to end: nothing half-done stays behind. The second ends the
//! process at once; a repository stands that too, it only leaves some garbage for `prune`.
//!
//! A write beyond a limit of file sizes (`ulimit -f`) is an error like that of a full disk, not the end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};

use super::exit::INTERRUPTED;

/// Cancels `cancel` at the first signal.
///
/// # Errors
/// `Failed` when the system refuses the handlers.
pub fn listen(cancel: &'static Cancel) -> Result<()> {
    let failed = |e| Error::new(Kind::Failed, "can't listen for signals").because(e);
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let listener = move || {
        for (number, _) in signals.forever().enumerate() {
            if number > 0 {
                signal_hook::low_level::exit(INTERRUPTED.into());
            }
            cancel.cancel();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listener).map_err(failed)?;
    Ok(())
}
