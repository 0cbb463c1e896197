//! Replaces functions of the C library in a server.

use std::process::Command;

use testkit::process::ScratchDir;

/// A C library whose functions replace the functions of the system with the same names. The file is removed when this
/// value is dropped.
pub struct Preload {
    dir: ScratchDir,
}

impl Preload {
    /// Compiles a library. Panics if this fails.
    pub fn compile(source: &str) -> Self {
        let dir = ScratchDir::new().expect("a directory");
        let (file, library) = (dir.path().join("library.c"), dir.path().join("library.so"));
        std::fs::write(&file, source).expect("a source");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &file]).arg("-ldl").status();
        assert!(compiled.expect("a C compiler, which the build of the server needs too").success());
        Self { dir }
    }

    /// Returns the line of a shell script that loads the library into the processes that the shell starts.
    pub fn script(&self) -> String {
        format!("export LD_PRELOAD={}", self.dir.path().join("library.so").display())
    }
}
