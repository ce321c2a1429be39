//! What a verb can come to: an answer, or a problem told as what happened, where, and what to do.

use std::{fmt, process::ExitCode};

use reeve_core::error_chain;

/// A verb's answer, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Fine: exit code 0.
    Yes,
    /// The answer is no (invalid, denied, tampered): exit code 1.
    No,
    /// It was broken off, and everything put back: exit code 3.
    Undone,
}

impl Answer {
    /// `Yes` if `fine`.
    pub(crate) fn from_fine(fine: bool) -> Self {
        if fine { Self::Yes } else { Self::No }
    }
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Yes => Self::SUCCESS,
            Answer::No => Self::from(1),
            Answer::Undone => Self::from(3),
        }
    }
}

/// Why a verb could not do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    what: String,
    place: Option<String>,
    fix: Option<String>,
    code: u8,
}

/// A verb's result.
pub(crate) type Verdict = Result<Answer, Problem>;

impl Problem {
    /// A problem that kept the verb from running (exit code 2).
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            place: None,
            fix: None,
            code: 2,
        }
    }

    /// A problem with an error beneath it, told with its whole chain of causes.
    pub(crate) fn because(what: impl fmt::Display, cause: &dyn std::error::Error) -> Self {
        Self::new(format!("{what}: {}", error_chain(cause)))
    }

    /// Says where.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.place = Some(place.to_string());
        self
    }

    /// Says what to do about it.
    pub(crate) fn fix(mut self, fix: impl fmt::Display) -> Self {
        self.fix = Some(fix.to_string());
        self
    }

    /// Makes it an answer of "no" (exit code 1): the input is at fault, not the run.
    pub(crate) fn into_answer(mut self) -> Self {
        self.code = 1;
        self
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// In lines of its own, as a verb's last word; in the alternate form (`{:#}`) as part of a sentence.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            f.write_str(&self.what)?;
            if let Some(place) = &self.place {
                write!(f, " (at {place})")?;
            }
            return match &self.fix {
                Some(fix) => write!(f, "; {fix}"),
                None => Ok(()),
            };
        }
        write!(f, "error: {}", self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  at: {place}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "\n  fix: {fix}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_where_and_what_to_do() {
        let problem = Problem::new("the socket path is taken")
            .at("/tmp/x.sock")
            .fix("remove it");
        assert_eq!(
            problem.to_string(),
            "error: the socket path is taken\n  at: /tmp/x.sock\n  fix: remove it"
        );
        assert_eq!(
            format!("{problem:#}"),
            "the socket path is taken (at /tmp/x.sock); remove it"
        );
    }
}
