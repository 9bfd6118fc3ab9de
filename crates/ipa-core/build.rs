//! Finds libtorch at run time as every package does, and compiles what its bindings leave out.

use std::env;
use std::path::PathBuf;

#[path = "../../build.rs"]
mod rpath;

fn main() {
    rpath::main();
    const SOURCES: [&str; 2] = ["src/autograd/shim.cpp", "src/cuda/shim.cpp"];
    let include = include();
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").files(SOURCES).warnings(false);
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    build.include(&include).include(include.join("torch/csrc/api/include"));
    build.compile("ipa_shims");
}

/// Of the libtorch that the bindings were compiled with: beside its `lib`, which they tell on Linux and macOS.
fn include() -> PathBuf {
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    let root = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from);
    let beside = || Some(PathBuf::from(env::var_os("DEP_TCH_LIBTORCH_LIB")?).parent()?.to_owned());
    let named = || env::var_os("LIBTORCH").map(PathBuf::from);
    root.or_else(beside).or_else(named).expect("the bindings were compiled with a libtorch").join("include")
}
