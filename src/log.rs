//! The log, which is not for users but for finding faults. METRA_LOG filters it.

use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

const VARIABLE: &str = "METRA_LOG";

/// What METRA_LOG asks for, if it is set.
///
/// # Errors
/// It is not a filter.
pub(crate) fn asked_for() -> Result<Option<EnvFilter>, Failure> {
    match std::env::var(VARIABLE) {
        Ok(text) if !text.is_empty() => {
            let filter = EnvFilter::builder().parse(text);
            filter.map(Some).map_err(|e| Failure::usage(format!("{VARIABLE}: {e}")))
        }
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(e) => Err(Failure::usage(format!("{VARIABLE}: {e}"))),
    }
}

/// Starts the log of a client command, where nothing is logged unless it is asked for.
pub(crate) fn start() -> Result<(), Failure> {
    if let Some(filter) = asked_for()? {
        // Fails only if there is a log already.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    Ok(())
}
