//! The `brooklet` program: arguments in, exit code out. Everything else is the library.
fn main() {}
