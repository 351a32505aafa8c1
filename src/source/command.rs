//! A dump command: started, read, judged by its exit, ended with all its children.
//!
//! One thread serves both of the command's outputs: [`Running`] polls them together, so the last words
//! on standard error are heard while the dump is read, and no second thread can outlive the command.
//!
//! The command leads a process group of its own. A signal to the group reaches a whole pipeline
//! (`sh -c 'pg_dump | sed ...'`), and Ctrl-C, which a terminal sends to its foreground group, comes to
//! Alluvium alone and takes the same way as `kill -INT`: the cancellation, then [`Running`] ends the
//! group. The price: a command in the background that asks for a password at the terminal is stopped
//! by the kernel and would wait for ever; that is noticed and told.
//!
//! Arguments may hold secrets: no message contains any, only the program's name.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::source::pipe::{PATIENCE, grown, read_ready, readable};
use crate::source::secrets;

/// How long a command may take to end after SIGTERM.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// How long a killed command may take to vanish; one that waits for a dead NFS server never does.
const VANISH_PATIENCE: Duration = Duration::from_secs(1);
/// How long standard error is heard after the command's exit: a grandchild may hold it open for ever.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at a command that is about to end.
const GLANCE: Duration = Duration::from_millis(5);

/// How much of standard error is kept for the error message.
const LINES_MAX: usize = 20;
const LINES_BYTES_MAX: usize = 8 << 10;

/// What is told each line of a command's standard error.
pub type LineListener<'c> = Box<dyn FnMut(&str) + Send + 'c>;

/// A command that runs; reading it reads its standard output. Dropping it ends it.
pub struct Running<'c> {
    program: String,
    child: Child,
    /// `None` once closed.
    stdout: Option<File>,
    /// `None` once it ended.
    stderr: Option<File>,
    words: LastWords<'c>,
    cancel: &'c Cancel,
    /// The end of standard output was read.
    complete: bool,
    /// The command has exited and been waited for, or was killed.
    over: bool,
}

/// Starts `arguments[0]` with the rest as its arguments, without a shell, with nothing on standard input.
///
/// # Errors
/// `Usage` for an empty command; `Source` where the program is not found or can't be started.
pub fn spawn<'c>(arguments: &[String], cancel: &'c Cancel) -> Result<Running<'c>> {
    let Some((program, arguments)) = arguments.split_first() else {
        return Err(Error::new(Kind::Usage, "the command is empty"));
    };
    let mut command = std::process::Command::new(program);
    secrets::remove_all(&mut command);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| start_error(program, error))?;
    let stdout = child.stdout.take().map(|out| File::from(grown(OwnedFd::from(out))));
    let stderr = child.stderr.take().map(|err| File::from(OwnedFd::from(err)));
    let (program, words) = (program.clone(), LastWords::default());
    Ok(Running { program, child, stdout, stderr, words, cancel, complete: false, over: false })
}

fn start_error(program: &str, error: io::Error) -> Error {
    let error = if error.kind() == io::ErrorKind::NotFound {
        Error::new(Kind::Source, format!("`{program}` was not found; nothing was stored"))
    } else {
        Error::new(Kind::Source, format!("`{program}` can't be started; nothing was stored")).because(error)
    };
    error.hint("is it installed, and in this user's PATH? A name with a `/` is taken as a path")
}

impl<'c> Running<'c> {
    /// Tells each line of standard error to `listener`, from the thread that reads.
    #[must_use]
    pub fn each_line(mut self, listener: impl FnMut(&str) + Send + 'c) -> Self {
        self.words.listener = Some(Box::new(listener));
        self
    }

    /// The command's name: its first word, never its arguments.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Waits for the exit. Only a command that ended well, after its output was read to the end, is `Ok`.
    ///
    /// Descendants that still run are left alone after a good end (a connection that `ssh` keeps for
    /// later), and ended after a bad one.
    ///
    /// # Errors
    /// `Source` with the last lines of standard error where it failed or was killed; `Interrupted` when
    /// cancelled; `Failed` where its output was not read to the end.
    pub fn finish(mut self) -> Result<()> {
        if !self.complete {
            // It may sleep in a write that nobody will read: it is not waited for, dropping ends it.
            return Err(Error::new(Kind::Failed, format!("the output of `{}` was not read to its end", self.program)));
        }
        self.stdout = None;
        self.wait_for_exit()?;
        let deadline = Instant::now() + LAST_WORDS_PATIENCE;
        while self.stderr.is_some() && Instant::now() < deadline && !self.cancel.is_cancelled() {
            self.hear(PATIENCE);
        }
        self.words.end();
        let status = self.child.wait().map_err(|error| {
            let what = format!("how `{}` ended can't be learnt; nothing was stored", self.program);
            Error::new(Kind::Source, what).because(error)
        })?;
        self.over = status.success();
        if status.success() { Ok(()) } else { Err(self.failure(status)) }
    }

    /// Ends the command and all its descendants that did not leave its process group: SIGTERM, and
    /// SIGKILL for what is left after 5 seconds.
    pub fn kill(mut self) {
        self.end();
    }

    /// Sleeps until the command has exited, without taking its status: until then its number, which is
    /// the group's number too, belongs to nobody else.
    fn wait_for_exit(&mut self) -> Result<()> {
        while let Ok(None) = self.state(WaitIdOptions::EXITED) {
            self.cancel.check()?;
            self.check_stopped()?;
            if self.stderr.is_some() {
                self.hear(PATIENCE / 10);
            } else {
                sleep(GLANCE);
            }
        }
        Ok(())
    }

    /// Looks whether the command has got into a state, and leaves it there.
    fn state(&self, which: WaitIdOptions) -> rustix::io::Result<Option<WaitIdStatus>> {
        let look = which | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(self.group()), look)
    }

    /// Takes in what comes on standard error within `patience`. Its failure is as good as its end.
    fn hear(&mut self, patience: Duration) {
        let Some(stderr) = &self.stderr else { return };
        match readable([stderr.as_fd()], patience) {
            Ok([true]) => self.take_in_words(),
            Ok([false]) => {}
            Err(_) => self.stderr = None,
        }
    }

    fn take_in_words(&mut self) {
        let Some(stderr) = &mut self.stderr else { return };
        let mut buffer = [0; 4096];
        match read_ready(stderr, &mut buffer) {
            Ok(Some(0)) | Err(_) => {
                self.stderr = None;
                self.words.end();
            }
            Ok(Some(count)) => self.words.take_in(&buffer[..count]),
            Ok(None) => {}
        }
    }

    /// Which of standard output and standard error can be read.
    fn ready(&self, stdout: &File) -> io::Result<(bool, bool)> {
        match &self.stderr {
            Some(stderr) => readable([stdout.as_fd(), stderr.as_fd()], PATIENCE).map(|[out, err]| (out, err)),
            None => readable([stdout.as_fd()], PATIENCE).map(|[out]| (out, false)),
        }
    }

    /// An error where the kernel stopped the group because one of it turned to the terminal.
    fn check_stopped(&self) -> Result<()> {
        let Ok(Some(state)) = self.state(WaitIdOptions::STOPPED) else { return Ok(()) };
        let signal = state.stopping_signal();
        if signal != Some(Signal::TTIN.as_raw()) && signal != Some(Signal::TTOU.as_raw()) {
            return Ok(()); // Somebody stopped it on purpose and will continue it.
        }
        let what = format!("`{}` asked at the terminal, where it can't be answered; nothing was stored", self.program);
        Err(Error::new(Kind::Source, what)
            .hint("give the password in a file: ~/.pgpass for pg_dump, ~/.my.cnf for mysqldump; `sudo -n` never asks"))
    }

    fn failure(&self, status: ExitStatus) -> Error {
        let program = &self.program;
        let (what, hint) = match (status.code(), status.signal()) {
            (Some(code), _) => (format!("`{program}` exited with status {code}"), None),
            (None, Some(9)) => {
                let hint = "the kernel does this when memory runs out; look at its log (`dmesg`)";
                (format!("`{program}` was killed by signal 9 (SIGKILL)"), Some(hint))
            }
            (None, Some(signal)) => (format!("`{program}` was killed by signal {signal}{}", signal_name(signal)), None),
            (None, None) => (format!("`{program}` failed"), None),
        };
        let error = Error::new(Kind::Source, format!("{what}; nothing was stored{}", self.words));
        if let Some(hint) = hint { error.hint(hint) } else { error }
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn end(&mut self) {
        self.over = true;
        // What still writes now gets SIGPIPE instead of sleeping for ever.
        (self.stdout, self.stderr) = (None, None);
        self.signal(Signal::TERM);
        // A stopped process sees SIGTERM only after it was continued.
        self.signal(Signal::CONT);
        if !self.gone_within(KILL_PATIENCE, true) {
            self.signal(Signal::KILL);
            self.gone_within(VANISH_PATIENCE, false);
        }
    }

    /// Sends to the group. A group that has ended, or that another user owns (`sudo`), can't be helped.
    ///
    /// The group's number has not passed on to strangers: it is taken until the command was waited for,
    /// which happens just before at the earliest, and after that as long as one of the group lives, which
    /// [`end`](Self::end) looks at between the signals.
    fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.group(), signal);
    }

    /// True once the command, and with `all` every one of its group, has ended.
    fn gone_within(&mut self, patience: Duration, all: bool) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let exited = !matches!(self.child.try_wait(), Ok(None));
            if exited && !(all && group_lives(self.group())) {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
            sleep(GLANCE);
        }
    }
}

/// Whether one of the group lives. Zombies do not: an init that is slow to bury orphans, as in many
/// containers, must not look like a command that ignores SIGTERM. Where there is no `/proc` they count.
fn group_lives(group: Pid) -> bool {
    if rustix::process::test_kill_process_group(group).is_err() {
        return false;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let group = group.as_raw_pid().to_string();
    processes.flatten().any(|process| {
        let stat = std::fs::read(process.path().join("stat")).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        // The name, which may hold anything, ends at the last parenthesis; state, parent and group follow.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        fields.next().is_some_and(|state| state != "Z" && state != "X") && fields.nth(1) == Some(&group)
    })
}

impl Read for Running<'_> {
    /// Fails with an [`Error`] inside (see [`read_error`](super::pipe::read_error)) once cancelled, or where
    /// the command can't go on.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.cancel.check().map_err(io::Error::other)?;
            let Some(stdout) = &self.stdout else { return Ok(0) };
            let (out, err) = self.ready(stdout)?;
            if err {
                self.take_in_words();
            }
            if let (true, Some(stdout)) = (out, &mut self.stdout)
                && let Some(count) = read_ready(stdout, buffer)?
            {
                self.complete |= count == 0 && !buffer.is_empty();
                return Ok(count);
            }
            if !out && !err {
                self.check_stopped().map_err(io::Error::other)?;
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.end();
        }
    }
}

impl fmt::Debug for Running<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The child's own form would show the arguments' secrets to a log.
        f.debug_struct("Running").field("program", &self.program).finish_non_exhaustive()
    }
}

/// The last lines of standard error. Not sanitised: that is the business of who shows them.
#[derive(Default)]
struct LastWords<'c> {
    /// A line that has not ended.
    partial: Vec<u8>,
    lines: VecDeque<String>,
    bytes: usize,
    listener: Option<LineListener<'c>>,
}

impl LastWords<'_> {
    fn take_in(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.partial.extend_from_slice(&bytes[..end]);
            self.end();
            bytes = &bytes[end + 1..];
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() >= LINES_BYTES_MAX {
            self.end(); // A line without end must not fill the memory.
        }
    }

    /// Ends the line that is under way.
    fn end(&mut self) {
        let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        if let Some(listener) = &mut self.listener {
            listener(&line);
        }
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES_MAX || self.bytes > LINES_BYTES_MAX && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// Each line on its own, indented; for the end of a message.
impl fmt::Display for LastWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The names of the signals that end dumps; the numbers are the same on all systems we know.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        6 => " (SIGABRT)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}
