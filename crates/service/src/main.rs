//! See [`idempotency_service::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    idempotency_service::cli::main()
}
