//! `grpc.health.v1.Health` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>): whether questions can be
//! answered by more than a refusal.

use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use tonic::server::NamedService;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::{grpc::Checks, judge::Judge, limits::MAX_HEALTH_BYTES};

/// How often it is looked how things stand.
const LOOK: Duration = Duration::from_millis(250);
/// The services that are told of: the server as a whole, and the one that decides.
const SERVICES: [&str; 2] = ["", <AuthorizationServer<Checks> as NamedService>::NAME];

/// How a judge stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Serving,
    /// There is no configuration to judge by.
    NoConfiguration,
    /// Decisions cannot be recorded, and so all are denials.
    NotRecording,
}

impl Health {
    fn status(self) -> ServingStatus {
        match self {
            Self::Serving => ServingStatus::Serving,
            Self::NoConfiguration | Self::NotRecording => ServingStatus::NotServing,
        }
    }
}

/// The service with its bounds.
pub(crate) fn server(reporter: &HealthReporter) -> HealthServer<HealthService> {
    let service = HealthService::from_health_reporter(reporter.clone());
    HealthServer::new(service).max_decoding_message_size(MAX_HEALTH_BYTES)
}

impl Judge {
    /// Tells whoever asks for the health how things stand, for ever.
    pub async fn tell_health(&self) {
        loop {
            self.tell(self.health()).await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Tells how things stand now.
    pub async fn tell(&self, health: Health) {
        for service in SERVICES {
            let status = health.status();
            self.reporter.set_service_status(service, status).await;
        }
    }

    /// Tells that nothing is answered any more, and ends the streams of those who watch.
    pub async fn leave(&self) {
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            let gone = ServingStatus::NotServing;
            reporter.set_service_status(service, gone).await;
            reporter.clear_service_status(service).await;
        }
    }
}
