//! Where passphrases come from: a file, a command, the environment, or a person at the terminal; in this order.
//! Never from an option's value, which everybody on the machine could read in the list of processes.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::source::secrets;

/// A passphrase; gone from memory when it is dropped.
pub type Passphrase = Zeroizing<Vec<u8>>;

/// Where to look for one passphrase.
#[derive(Clone, Copy, Debug)]
pub struct Origins<'a> {
    /// `--password-file` or its like.
    pub file: Option<&'a Path>,
    /// `--password-command` or its like: a line for the shell.
    pub command: Option<&'a OsStr>,
    /// An environment variable with the passphrase; the one with `_FILE` behind it names a file.
    pub variable: &'a str,
    /// The options' common beginning, for advice: `--password`.
    pub option: &'a str,
    /// What to ask a person for.
    pub prompt: &'a str,
    /// Ask twice: a new passphrase with a typing error would lock everybody out.
    pub twice: bool,
}

impl Origins<'_> {
    /// The passphrase.
    ///
    /// # Errors
    /// `Usage` for an empty one, for two that differ, and when there is neither a passphrase nor a terminal;
    /// `Failed` for an unreadable file or a command that fails; `Interrupted` at the prompt.
    pub fn read(self) -> Result<Passphrase> {
        match self.read_given()? {
            Some(passphrase) => Ok(passphrase),
            None => self.not_empty(self.ask()?),
        }
    }

    /// The passphrase, as far as it can be had without asking.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_given(self) -> Result<Option<Passphrase>> {
        let from_environment = |name: &str| std::env::var_os(name);
        let passphrase = if let Some(file) = self.file {
            read_file(file)?
        } else if let Some(command) = self.command {
            run(command)?
        } else if let Some(value) = from_environment(self.variable) {
            Zeroizing::new(value.into_vec())
        } else if let Some(file) = from_environment(&format!("{}_FILE", self.variable)) {
            read_file(Path::new(&file))?
        } else {
            return Ok(None);
        };
        self.not_empty(passphrase).map(Some)
    }

    fn not_empty(self, passphrase: Passphrase) -> Result<Passphrase> {
        if passphrase.is_empty() {
            return Err(Error::new(Kind::Usage, format!("the {} is empty", self.prompt))
                .hint("an empty passphrase protects nothing; check where it comes from"));
        }
        Ok(passphrase)
    }

    fn ask(self) -> Result<Passphrase> {
        // Standard input and output may both be pipes of data: a terminal at the third is enough.
        if !(io::stdin().is_terminal() || io::stderr().is_terminal()) {
            // The call lacks something that it has to bring: wrong usage, not a failure.
            let Self { prompt, variable, option, .. } = self;
            return Err(Error::new(Kind::Usage, format!("there is no {prompt}, and no terminal to ask for it"))
                .hint(format!("give it with {option}-file, {option}-command, {variable} or {variable}_FILE")));
        }
        let passphrase = prompt(&format!("{}: ", self.prompt))?;
        if self.twice && passphrase != prompt(&format!("{} again: ", self.prompt))? {
            return Err(Error::new(Kind::Usage, "the two passphrases differ; nothing was changed"));
        }
        Ok(passphrase)
    }
}

/// Asks at the terminal itself, past all redirections.
fn prompt(text: &str) -> Result<Passphrase> {
    rpassword::prompt_password(text).map(|answer| Zeroizing::new(answer.into_bytes())).map_err(|error| {
        let kind = if error.kind() == io::ErrorKind::Interrupted { Kind::Interrupted } else { Kind::Failed };
        Error::new(kind, "no passphrase was given").because(error)
    })
}

fn read_file(file: &Path) -> Result<Passphrase> {
    let bytes = std::fs::read(file).map_err(|e| {
        Error::new(Kind::Failed, format!("can't read the passphrase from {}", file.display())).because(e)
    })?;
    Ok(without_newline(bytes))
}

fn run(command: &OsStr) -> Result<Passphrase> {
    // Its standard input is not ours, which may be the data of a snapshot.
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(OsString::from(command)).stdin(Stdio::null()).stderr(Stdio::inherit());
    secrets::remove_of_repository(&mut shell);
    let output = shell.output().map_err(|e| Error::new(Kind::Failed, "can't run the passphrase command").because(e))?;
    let passphrase = without_newline(output.stdout);
    if output.status.success() {
        Ok(passphrase)
    } else {
        Err(Error::new(Kind::Failed, format!("the passphrase command failed: {}", output.status)))
    }
}

/// Drops one line end: editors and `echo` add it, nobody means it.
fn without_newline(bytes: Vec<u8>) -> Passphrase {
    let mut bytes = Zeroizing::new(bytes);
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        } else {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_dropped() {
        for (given, meant) in
            [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), (" a ", " a "), ("\n", ""), ("", "")]
        {
            assert_eq!(without_newline(given.into()).as_slice(), meant.as_bytes(), "{given:?}");
        }
    }
}
