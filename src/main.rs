//! The program: everything is in the library, so that tests and other programs can have it too.

fn main() -> std::process::ExitCode {
    alluvium::cli::main()
}
