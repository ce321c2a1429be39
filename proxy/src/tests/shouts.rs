//! Warnings of break-glass, as the log gets them: one place for all tests of the process, since threads share it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, Once},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Shout {
    pub(super) level: Level,
    pub(super) message: String,
    pub(super) fields: BTreeMap<&'static str, String>,
}

static HEARD: Mutex<Vec<Shout>> = Mutex::new(Vec::new());

/// What was said so far; listens from the first call on.
pub(super) fn shouts() -> Vec<Shout> {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        tracing::subscriber::set_global_default(Listener).expect("no test has another");
    });
    HEARD.lock().unwrap().clone()
}

struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().ends_with("break_glass")
    }

    fn event(&self, event: &Event<'_>) {
        let mut shout = Shout {
            level: *event.metadata().level(),
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut shout);
        HEARD.lock().unwrap().push(shout);
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

impl Visit for Shout {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => drop(self.fields.insert(name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
