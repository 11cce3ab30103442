//! What is counted of TLS.

use super::metrics::Register;
use super::refusals::Labelled;
use crate::tls::{HandshakeFailure, Loaded};

/// Counters of handshakes and of files read again.
pub(crate) struct TlsCounts {
    failed: Labelled<9>,
    reloads: Labelled<2>,
}

impl TlsCounts {
    pub(super) fn new(make: &Register<'_>) -> TlsCounts {
        TlsCounts {
            failed: Labelled::new(
                make,
                "tls_handshakes_failed_total",
                "TLS handshakes that failed.",
                HandshakeFailure::ALL.map(HandshakeFailure::name),
            ),
            reloads: Labelled::by(
                make,
                "tls_reloads_total",
                "Files of certificates, keys and roles that had changed: put in force, or of no use.",
                "result",
                ["loaded", "refused"],
            ),
        }
    }

    /// A handshake failed.
    pub(crate) fn failed(&self, why: HandshakeFailure) {
        self.failed.add(why as usize);
    }

    /// The files had changed, and what they hold now can be used, or not.
    pub(crate) fn reloaded(&self, loaded: bool) {
        self.reloads.add(usize::from(!loaded));
    }
}

/// What is in force now.
pub(super) fn now(make: &Register<'_>, loaded: &Loaded, refusing: bool) {
    let help = "The end of the earliest certificate in each file, in seconds since 1970.";
    let name = "certificate_not_after_timestamp_seconds";
    let ends = make.gauges(name, help, &["certificate"]);
    for (certificate, end) in &loaded.ends {
        ends.with_label_values(&[certificate]).set(*end);
    }
    let help = "Whether the newest files of certificates, keys and roles are of no use; older ones are in force.";
    make.gauge("tls_files_refused", help)
        .set(i64::from(refusing));
}
