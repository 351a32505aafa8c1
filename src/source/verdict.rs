//! Is a finished dump whole?
//!
//! A dump tool that dies leaves a file that looks like a dump, and a shell's pipe hides that it died.
//! But the tools write a last line once all is done. Who announces itself in the head as such a tool
//! owes that line in the tail:
//!
//! | head | last line |
//! |---|---|
//! | `-- PostgreSQL database dump` | `-- PostgreSQL database dump complete` |
//! | `-- PostgreSQL database cluster dump` | `-- PostgreSQL database cluster dump complete` |
//! | `-- MySQL dump ...`, `-- MariaDB dump ...` | `-- Dump completed`, with or without a date |
//!
//! A row may hold the same words. So the marker counts only as a whole line that nothing follows but
//! comments, empty lines and `\unrestrict`; data never ends a whole dump. Where the head holds
//! `\restrict TOKEN` (`pg_dump` since 15.14, 16.10, 17.6), the tail must hold `\unrestrict` with the same
//! random token, which no row can know. Other streams are not judged here, only by the exit of their
//! command.

use crate::error::{Error, Kind, Result};

/// Judges a stream that has ended, by its [`Watched`](crate::source::watch::Watched) head, tail and length.
///
/// Only missing empty lines at the very end are forgiven; no other proper prefix of a dump passes.
///
/// # Errors
/// `Source` where the stream is empty, or where it is a dump of a known tool without its last line.
pub fn judge(head: &[u8], tail: &[u8], bytes: u64) -> Result<()> {
    if bytes == 0 {
        return Err(Error::new(Kind::Source, "the stream is empty; nothing was stored")
            .hint("a dump of even an empty database has some bytes: look at what the dump command said"));
    }
    let Some(dump) = Dump::recognise(head) else { return Ok(()) };
    // A tail begins in the midst of a line, unless it is the whole stream.
    let tail = if bytes > tail.len() as u64 { after_first_line(tail) } else { tail };
    if dump.is_whole(tail) {
        return Ok(());
    }
    let what = format!("the dump is incomplete: `{}` is missing at its end; nothing was stored", dump.tool.marker());
    Err(Error::new(Kind::Source, what).hint(
        "the dump command was interrupted or failed; let alluvium start it, then its own message is shown. \
         Several dumps joined in one stream can't be judged: store each as a part of its own.",
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    PgDump,
    PgDumpAll,
    MySqlDump,
}

impl Tool {
    fn announced_by(line: &[u8]) -> Option<Self> {
        match line {
            b"-- PostgreSQL database dump" => Some(Self::PgDump),
            b"-- PostgreSQL database cluster dump" => Some(Self::PgDumpAll),
            _ if line.starts_with(b"-- MySQL dump ") || line.starts_with(b"-- MariaDB dump ") => Some(Self::MySqlDump),
            _ => None,
        }
    }

    /// The last line, or its beginning.
    fn marker(self) -> &'static str {
        match self {
            Self::PgDump => "-- PostgreSQL database dump complete",
            Self::PgDumpAll => "-- PostgreSQL database cluster dump complete",
            Self::MySqlDump => "-- Dump completed",
        }
    }
}

/// What a head announces.
#[derive(Debug)]
struct Dump<'h> {
    tool: Tool,
    /// The token that the last lines owe.
    token: Option<&'h [u8]>,
}

impl<'h> Dump<'h> {
    fn recognise(head: &'h [u8]) -> Option<Self> {
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        let mut preamble = lines(head).take_while(|line| is_preamble(line));
        let tool = preamble.find_map(Tool::announced_by)?;
        // pg_dumpall lifts its restriction before the inner dumps begin, long before the end.
        let token = preamble.find_map(|line| line.strip_prefix(br"\restrict ")).filter(|_| tool == Tool::PgDump);
        Some(Self { tool, token })
    }

    /// Looks at the last lines, backwards up to the marker.
    fn is_whole(&self, tail: &[u8]) -> bool {
        let Some(tail) = tail.strip_suffix(b"\n") else { return false };
        // PostgreSQL's markers are framed by lines of two dashes.
        let (mut framed, mut released) = (self.tool == Tool::MySqlDump, self.token.is_none());
        for line in lines(tail).rev() {
            if self.is_marker(line) {
                return framed && released;
            }
            match line {
                b"" => {}
                b"--" => framed = true,
                _ if line.starts_with(b"--") => {}
                _ => match line.strip_prefix(br"\unrestrict ") {
                    Some(token) => released |= self.token == Some(token),
                    None => return false,
                },
            }
        }
        false
    }

    fn is_marker(&self, line: &[u8]) -> bool {
        match line.strip_prefix(self.tool.marker().as_bytes()) {
            Some(b"") => true,
            Some(date) => self.tool == Tool::MySqlDump && date.starts_with(b" on "),
            None => false,
        }
    }
}

/// What dump tools write before the first statement: comments, `MariaDB`'s sandbox line, `\restrict`.
fn is_preamble(line: &[u8]) -> bool {
    line.is_empty() || [&b"--"[..], b"/*", br"\"].iter().any(|start| line.starts_with(start))
}

/// The lines without their ends, Windows' ends included.
fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn after_first_line(text: &[u8]) -> &[u8] {
    text.iter().position(|&byte| byte == b'\n').map_or(b"", |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::watch::{HEAD_BYTES, TAIL_BYTES};

    const PG_DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped by pg_dump version 13.9\n\nSET x = 0;\n\n\
        COPY public.t (a) FROM stdin;\n1\n-- PostgreSQL database dump complete\n-- Dump completed\n2\n\\.\n\n\n\
        --\n-- PostgreSQL database dump complete\n--\n\n";
    const RESTRICTED: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict RxOU\n\n-- Dumped by pg_dump version 15.18\n\n\
        SET x = 0;\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict RxOU\n\n";
    const CLUSTER: &str = "--\n-- PostgreSQL database cluster dump\n--\n\n\\restrict 81Ad\n\nSET x = off;\n\n\\unrestrict 81Ad\n\n\
        \\connect template1\n\n--\n-- PostgreSQL database dump\n--\n\n\\restrict wfy6\n\nSET x = 0;\n\n\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict wfy6\n\n\
        --\n-- PostgreSQL database cluster dump complete\n--\n\n";
    const MYSQL: &str = "-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n--\n-- Host: localhost    Database: shop\n\
        \n/*!40101 SET NAMES utf8mb4 */;\nINSERT INTO `t` VALUES ('-- Dump completed');\n\n\
        -- Dump completed on 2024-05-01 12:00:00\n";
    const MARIADB: &str = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19-11.4.2, for Linux (x86_64)\n--\n\
        INSERT INTO `t` VALUES (1);\n-- Dump completed\n";

    fn verdict(dump: &[u8]) -> Result<()> {
        let head = &dump[..dump.len().min(HEAD_BYTES)];
        judge(head, &dump[dump.len().saturating_sub(TAIL_BYTES)..], dump.len() as u64)
    }

    fn refusal(dump: &str) -> String {
        verdict(dump.as_bytes()).map_or_else(|error| error.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn a_whole_dump_is_accepted_and_no_prefix_of_it_after_its_announcement() {
        for dump in [PG_DUMP, RESTRICTED, CLUSTER, MYSQL, MARIADB] {
            verdict(dump.as_bytes()).expect("whole");
            verdict(dump.replace('\n', "\r\n").as_bytes()).expect("whole, from Windows");
            verdict(format!("\u{feff}{dump}").as_bytes()).expect("whole, with a byte order mark");
            let announced = dump.find("dump").and_then(|at| dump[at..].find('\n').map(|end| at + end)).expect("a head");
            let content = dump.trim_end().len() + 1;
            for cut in announced..content {
                let error = verdict(&dump.as_bytes()[..cut]).expect_err(&dump[..cut]);
                assert_eq!(error.kind(), Kind::Source);
                assert!(error.to_string().contains("nothing was stored") && error.advice().is_some());
            }
            for cut in content..dump.len() {
                verdict(&dump.as_bytes()[..cut]).expect("only empty lines are missing");
            }
        }
    }

    #[test]
    fn every_prefix_of_a_long_dump_is_refused() {
        let rows = "7\t-- PostgreSQL database dump complete\n--\n\n".repeat(9000);
        let dump = PG_DUMP.replacen("1\n", &rows, 1).into_bytes();
        verdict(&dump).expect("whole");
        for cut in (100..dump.len() - 1).rev().step_by(7).chain(dump.len() - 5000..dump.len() - 1) {
            assert!(verdict(&dump[..cut]).is_err(), "cut at {cut} of {}", dump.len());
        }
    }

    #[test]
    fn an_empty_stream_is_an_error() {
        assert_eq!(refusal(""), "the stream is empty; nothing was stored");
    }

    #[test]
    fn the_missing_line_is_named() {
        assert!(refusal("--\n-- PostgreSQL database dump\n--\n").contains("`-- PostgreSQL database dump complete`"));
        assert!(refusal("-- MySQL dump 10.13\n").contains("`-- Dump completed`"));
        let inner_end = &CLUSTER[..CLUSTER.find("--\n-- PostgreSQL database cluster dump complete").expect("its end")];
        assert!(refusal(inner_end).contains("cluster dump complete"), "the end of an inner dump is not the end");
    }

    #[test]
    fn the_words_inside_data_do_not_count() {
        let started = "--\n-- PostgreSQL database dump\n--\nCOPY t FROM stdin;\n";
        for end in [
            "x-- PostgreSQL database dump complete\n--\n\n",
            " -- PostgreSQL database dump complete\n--\n\n",
            "-- PostgreSQL database dump completed\n--\n\n",
            "-- PostgreSQL database dump complete\n--\n\nrow\n",
            "-- PostgreSQL database dump complete\n--\n\\.\n",
        ] {
            assert_ne!(refusal(&format!("{started}{end}")), "accepted", "{end:?}");
        }
        let foreign_token = RESTRICTED.replace("\\unrestrict RxOU", "\\unrestrict else");
        assert_ne!(refusal(&foreign_token), "accepted");
        // The tail of a long dump begins exactly with the words, in the midst of a row.
        let marker = b"-- PostgreSQL database dump complete\n--\n";
        let tail = [&marker[..], &vec![b'\n'; TAIL_BYTES - marker.len()]].concat();
        assert!(judge(started.as_bytes(), &tail, 1 << 20).is_err());
    }

    #[test]
    fn other_streams_are_not_judged() {
        for stream in [
            "x",
            "\n\n\n",
            "BEGIN;\n-- PostgreSQL database dump\n",
            "SQLite format 3\0",
            "-- PostgreSQL database dumping",
        ] {
            verdict(stream.as_bytes()).expect("not a known dump");
        }
    }
}
