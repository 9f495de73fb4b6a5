//! The `palisade` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    palisade_server::command::run(std::env::args_os())
}
