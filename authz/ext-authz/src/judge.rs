//! From an inquiry to a recorded verdict; the gRPC and the HTTP form share it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::request::Parts;
use reeve_audit::{AppendError, DecisionRecordRef, Wal, WalWriter, decision_id};
use reeve_core::{Clock, RecordId, decision::Reason};
use reeve_proxy::{
    Seldom,
    inquiry::{self, Asker, Judged},
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use tonic_health::server::HealthReporter;

use crate::{
    answer::{AnswerOptions, Denial},
    court::{Court, Target},
    health::Health,
    limits::{MAX_CHECKS, MIN_RECORD_ROOM, RECORD_PENALTY, RECORD_TIMEOUT},
    metrics::{Form, Metrics},
};

/// What a [`Judge`] needs.
#[derive(Debug)]
pub struct JudgeOptions {
    /// The configuration of the moment; `None` until there is one.
    pub court: watch::Receiver<Option<Arc<Court>>>,
    /// Where decisions are recorded.
    pub writer: WalWriter,
    /// The log that this writes to.
    pub wal: Arc<Wal>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What answers say beside the verdict.
    pub answers: AnswerOptions,
}

/// Judges inquiries.
#[derive(Debug)]
pub struct Judge {
    options: JudgeOptions,
    metrics: Metrics,
    slots: Semaphore,
    warnings: Seldom,
    /// When a decision could not be recorded last.
    failed: Mutex<Option<Instant>>,
    pub(crate) reporter: HealthReporter,
}

/// A question as another proxy asks it.
#[derive(Debug)]
pub(crate) struct Inquiry {
    pub(crate) target: Target,
    pub(crate) asker: Asker,
    /// `None`: a connection, of which nothing is read.
    pub(crate) head: Option<Parts>,
}

/// What came of an inquiry.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It may go on, changed so.
    Allowed {
        judged: Box<Judged>,
        decision_id: String,
    },
    /// It may not.
    Denied(Denial),
}

impl Judge {
    /// A judge whose figures go to `registry`.
    pub fn new(
        options: JudgeOptions,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            metrics: Metrics::register(registry)?,
            slots: Semaphore::new(MAX_CHECKS),
            warnings: Seldom::default(),
            failed: Mutex::default(),
            reporter: HealthReporter::new(),
            options,
        })
    }

    /// Whether it can do more than refuse.
    pub fn health(&self) -> Health {
        if self.options.court.borrow().is_none() {
            return Health::NoConfiguration;
        }
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = failed.is_some_and(|at| at.elapsed() < RECORD_PENALTY);
        let status = self.options.wal.status();
        let room = status.max_bytes.saturating_sub(status.bytes);
        match recently || room < MIN_RECORD_ROOM {
            true => Health::NotRecording,
            false => Health::Serving,
        }
    }

    pub(crate) fn answers(&self) -> &AnswerOptions {
        &self.options.answers
    }

    /// Judges, records, and only then answers.
    pub(crate) async fn judge(&self, form: Form, inquiry: Inquiry) -> Verdict {
        let started = Instant::now();
        let verdict = match self.slots.try_acquire() {
            Ok(_slot) => self.decide(inquiry).await,
            Err(_) => Verdict::Denied(Denial::overloaded()),
        };
        self.metrics.answered(form, &verdict, started.elapsed());
        verdict
    }

    /// A question that cannot be read.
    pub(crate) fn malformed(&self, form: Form, started: Instant) -> Verdict {
        let verdict = Verdict::Denied(Denial::malformed());
        self.metrics.answered(form, &verdict, started.elapsed());
        verdict
    }

    async fn decide(&self, inquiry: Inquiry) -> Verdict {
        let court = self.options.court.borrow().clone();
        let Some(court) = court else {
            return Verdict::Denied(Denial::not_ready());
        };
        let mut judged = match ask(&court, inquiry, self.options.clock.as_ref()) {
            Ok(judged) => judged,
            Err(error) => {
                tracing::debug!(%error, "an inquiry's head cannot be read");
                return Verdict::Denied(Denial::malformed());
            }
        };
        let record = match self.record(judged.record(&court.rules)).await {
            Ok(record) => record,
            Err(error) => {
                self.metrics.not_recorded();
                *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                if let Some(decisions) = self.warnings.due() {
                    tracing::error!(%error, decisions, "decisions could not be recorded; denied");
                }
                return Verdict::Denied(Denial::not_recorded());
            }
        };
        let decision_id = decision_id(&record);
        match judged.decision().is_allow() {
            true => Verdict::Allowed {
                judged: Box::new(judged),
                decision_id,
            },
            false => Verdict::Denied(Denial::because(judged.decision().reason, decision_id)),
        }
    }

    async fn record(&self, record: DecisionRecordRef<'_>) -> Result<RecordId, AppendError> {
        let writer = &self.options.writer;
        if !writer.awaits_disk() {
            return writer.append(record);
        }
        let late = |_elapsed| {
            let slow = std::io::Error::new(std::io::ErrorKind::TimedOut, "the disk is too slow");
            Err(AppendError::Io(slow))
        };
        let appending = writer.append_durable(record);
        timeout(RECORD_TIMEOUT, appending)
            .await
            .unwrap_or_else(late)
    }
}

fn ask(court: &Court, inquiry: Inquiry, clock: &dyn Clock) -> Result<Judged, inquiry::Unreadable> {
    let (rules, now) = (&court.rules, clock.now());
    let Inquiry {
        target,
        asker,
        head,
    } = inquiry;
    match (court.find(&target), head) {
        (Some(subject), Some(parts)) => inquiry::judge_request(rules, subject, &asker, parts, now),
        (Some(subject), None) => Ok(inquiry::judge_connection(rules, subject, &asker, now)),
        (None, parts) => {
            let resource = court.unknown(&target);
            let reason = Reason::NotInRegistry;
            inquiry::refuse(rules, resource, &asker, parts, (reason, now))
        }
    }
}

/// Microseconds in seconds, for histograms.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
mod tests;
