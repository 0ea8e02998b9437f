//! How `metra` ends: exit codes, and failures that lead to them.
//!
//! Exit codes are chosen here and nowhere else. `metra help exit-codes` prints [`table`].

use std::fmt;
use std::io;

use metra_client::{ClientError, Tried};
use metra_core::code::Code;

/// An exit code. The numbers never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Other = 1,
    Usage = 2,
    NoDirectory = 3,
    NoFile = 4,
    Retryable = 5,
    NotRetryable = 6,
    Fatal = 7,
    Limit = 8,
    Partial = 9,
    Authentication = 10,
    Integrity = 11,
    Policy = 12,
    Interrupted = 130,
    Terminated = 143,
}

/// A failure that ends the command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the command ends.
    pub(crate) exit: Exit,
    /// Which code of the protocol says so, where one does.
    pub(crate) code: Option<Code>,
    /// For people; nothing is printed if it is empty.
    pub(crate) message: String,
    /// Where a gateway could not be reached: what came of each way, and whether that leads through a proxy.
    pub(crate) ladder: Vec<(Tried, bool)>,
}

impl Exit {
    const ALL: [Exit; 15] = [
        Exit::Ok,
        Exit::Other,
        Exit::Usage,
        Exit::NoDirectory,
        Exit::NoFile,
        Exit::Retryable,
        Exit::NotRetryable,
        Exit::Fatal,
        Exit::Limit,
        Exit::Partial,
        Exit::Authentication,
        Exit::Integrity,
        Exit::Policy,
        Exit::Interrupted,
        Exit::Terminated,
    ];

    /// What the process returns.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// When a command ends with it.
    fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "everything was done",
            Exit::Other => "any other failure; of `doctor`: there is advice; of `policy test`: a case failed",
            Exit::Usage => "wrong use of the command, or a wrong configuration",
            Exit::NoDirectory => "no such directory",
            Exit::NoFile => "no such file",
            Exit::Retryable => "the network or the gateway is not there, or busy: the same command resumes",
            Exit::NotRetryable => "refused, and it will be again unless something is changed",
            Exit::Fatal => "the disk is full, or reading or writing failed",
            Exit::Limit => "a limit or quota would be exceeded",
            Exit::Partial => "done, but for some entries that were refused or failed",
            Exit::Authentication => "the credentials are wrong or missing",
            Exit::Integrity => "the data is not what it should be, or a signature is wrong",
            Exit::Policy => "the credentials are right, but this is not allowed",
            Exit::Interrupted => "ended by ^C (SIGINT): the same command resumes",
            Exit::Terminated => "ended by SIGTERM: the same command resumes",
        }
    }

    /// For a code of the protocol.
    pub(crate) fn of_code(code: Code) -> Self {
        match code {
            Code::Ok => Exit::Ok,
            Code::Internal => Exit::Other,
            Code::Busy | Code::Draining | Code::Timeout | Code::Superseded => Exit::Retryable,
            Code::NotFound => Exit::NoFile,
            Code::ReadFailed | Code::WriteFailed | Code::NoSpace => Exit::Fatal,
            Code::Limit => Exit::Limit,
            Code::Unauthenticated => Exit::Authentication,
            Code::Integrity => Exit::Integrity,
            Code::Denied => Exit::Policy,
            Code::Cancelled => Exit::Interrupted,
            Code::Protocol
            | Code::Version
            | Code::BadName
            | Code::Exists
            | Code::Changed
            | Code::Unsupported
            | Code::LinkEscapes
            | Code::Conflict => Exit::NotRetryable,
            // A code that was added later, and forgotten here.
            _ => Exit::Other,
        }
    }
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, code: None, message: message.into(), ladder: Vec::new() }
    }

    /// Wrong use of the command.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An error of the system about `what`.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoFile } else { Exit::Fatal };
        Self::new(exit, format!("{what}: {error}"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match Exit::of_code(error.code) {
            // A host that is not known, for one, is no missing file.
            Exit::Other | Exit::NotRetryable | Exit::NoFile if error.retryable => Exit::Retryable,
            exit => exit,
        };
        Self { exit, code: Some(error.code), message: error.message, ladder: error.ladder }
    }
}

/// Writing to standard output failed. A reader that has seen enough (`| head`) is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "");
        }
        Self::io("standard output", &error)
    }
}

/// The exit codes, for `metra help exit-codes`.
pub(crate) fn table() -> String {
    let mut text = String::from("How metra ends. The codes are the same for all commands.\n\n");
    for exit in Exit::ALL {
        text.push_str(&format!("{:>5}  {}\n", exit.number(), exit.meaning()));
    }
    text.push_str("\nWith --json the last line of output has the code as \"exit_code\".\n");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_an_exit_code_that_fits() {
        for code in Code::all() {
            let exit = Exit::of_code(*code);
            assert_eq!(exit == Exit::Ok, *code == Code::Ok, "{code}");
            assert_eq!(exit == Exit::Retryable, code.is_retryable(), "{code}");
            // Nothing else may fall through to the arm for codes that are not known.
            assert_eq!(exit == Exit::Other, *code == Code::Internal, "{code}");
        }
        assert_eq!(Exit::of_code(Code::Unauthenticated).number(), 10);
        assert_eq!(Exit::of_code(Code::Integrity).number(), 11);
        assert_eq!(Exit::of_code(Code::Denied).number(), 12);
        assert_eq!(Exit::of_code(Code::NoSpace).number(), 7);
        assert_eq!(Exit::of_code(Code::Limit).number(), 8);
    }

    #[test]
    fn what_may_be_tried_again_says_so() {
        let exit =
            |code, retryable| Failure::from(ClientError { retryable, ..ClientError::new(code, "") }).exit;
        assert_eq!(exit(Code::Internal, true), Exit::Retryable);
        assert_eq!(exit(Code::Internal, false), Exit::Other);
        assert_eq!(exit(Code::NotFound, true), Exit::Retryable);
        assert_eq!(exit(Code::NotFound, false), Exit::NoFile);
        assert_eq!(exit(Code::NoSpace, true), Exit::Fatal);
        assert_eq!(exit(Code::Unauthenticated, true), Exit::Authentication);
    }

    #[test]
    fn the_table_has_every_code_once() {
        let numbers: HashSet<u8> = Exit::ALL.iter().map(|e| e.number()).collect();
        assert_eq!(numbers.len(), Exit::ALL.len());
        let table = table();
        for exit in Exit::ALL {
            assert!(table.contains(&format!("{:>5}  {}\n", exit.number(), exit.meaning())));
        }
        assert!(table.lines().all(|line| line.len() <= 100));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Ok, ""));
        assert_eq!(Failure::from(io::Error::other("x")).exit, Exit::Fatal);
    }
}
