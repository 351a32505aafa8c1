//! `generate`: completions and manual pages out of the definition of the arguments, so that they can't be wrong.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::shells;

use crate::error::{Error, Result};

use super::super::args::{Arguments, Generate, Shell};
use super::super::context::Context;
use super::super::exit::Outcome;

/// Prints or writes them.
///
/// # Errors
/// `Storage` when the folder can't be written to.
pub fn generate(context: &mut Context<'_>, what: Generate) -> Result<Outcome> {
    let mut command = Arguments::command();
    match what {
        Generate::Completions { shell } => {
            let mut script = Vec::new();
            match shell {
                Shell::Bash => clap_complete::generate(shells::Bash, &mut command, "alluvium", &mut script),
                Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, "alluvium", &mut script),
                Shell::Fish => clap_complete::generate(shells::Fish, &mut command, "alluvium", &mut script),
            }
            // A failure is told at the end.
            let _ = context.out.write_all(&script);
        }
        Generate::Man { folder } => {
            let failed = |e| Error::storage(format!("can't write manual pages to {}", folder.display()), e);
            std::fs::create_dir_all(&folder).map_err(failed)?;
            clap_mangen::generate_to(command, &folder).map_err(failed)?;
        }
    }
    Ok(Outcome::Done)
}
