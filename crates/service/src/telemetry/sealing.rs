//! What encryption at rest counts.

use super::metrics::Register;
use crate::encryption::KeyKeeper;
use idempotency_store::sealed::Trouble;

/// The gauges and counters of a process with keys. A process without has none of them.
pub(super) fn write(make: &Register<'_>, keeper: &KeyKeeper) {
    let Some(ring) = keeper.ring() else { return };
    let help = "The encryption keys of this process: the one that seals, and those that open.";
    let keys = make.gauges("encryption_key_info", help, &["key", "use"]);
    for (place, name) in ring.keys().names().into_iter().enumerate() {
        let used = if place == 0 { "seals" } else { "opens" };
        keys.with_label_values(&[name, used]).set(1);
    }
    let help = "Whether the newest encryption keys are not in use, because they cannot be read or make no sense.";
    make.gauge("encryption_keys_stale", help)
        .set(i64::from(keeper.has_failed()));
    let help = "Whether there may be records in clear, from before the encryption.";
    make.gauge("encryption_records_in_clear", help)
        .set(i64::from(ring.has_clear()));
    let help = "What could not be opened or compared: its key is missing, or it is damaged.";
    let troubles = make.counters("encryption_troubles_total", help, &["trouble"]);
    for trouble in Trouble::ALL {
        troubles
            .with_label_values(&[trouble.name()])
            .inc_by(ring.count(trouble));
    }
}
