//! The `brooklet` program: arguments in, exit code out. Everything else is the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    brooklet::cli::main()
}
