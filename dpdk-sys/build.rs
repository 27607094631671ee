//! Finds libdpdk, compiles the shim, generates the bindings. What is missing is said in one line.

use std::env;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const INSTALL: &str = "apt-get install libdpdk-dev libclang-dev pkg-config gcc";

fn main() -> ExitCode {
    for input in ["build.rs", "wrapper.h", "shim.c"] {
        println!("cargo::rerun-if-changed={input}");
    }
    for variable in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        // Cargo prints this line and ends the build itself; a failing exit code would add the whole output.
        Err(missing) => {
            println!("cargo::error={missing}");
            ExitCode::SUCCESS
        }
    }
}

fn build() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this by cargo")?);
    pkg_config(&["--exists"]).map_err(|e| format!("{e} Install it with: {INSTALL}"))?;
    let cflags = pkg_config(&["--cflags"])?;
    compile_shim(&cflags)?;
    link(&pkg_config(&["--libs"])?);
    generate(&cflags, &out)
}

/// Asks pkg-config about libdpdk. The `pkg-config` crate drops `-include rte_config.h` and `-march`, so the program it is.
fn pkg_config(arguments: &[&str]) -> Result<Vec<String>, String> {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(&program)
        .args(arguments)
        .arg("libdpdk")
        .output()
        .map_err(|e| format!("{program} cannot be run ({e}); it is needed to find libdpdk."))?;
    if !output.status.success() {
        return Err(format!("libdpdk is not known to {program}: DPDK's development files are missing."));
    }
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
}

fn compile_shim(cflags: &[String]) -> Result<(), String> {
    let mut cc = cc::Build::new();
    let missing =
        |e: &dyn std::fmt::Display| format!("no C compiler works here ({e}). Install one with: {INSTALL}");
    // Off while looking for the compiler: cc would say in two more lines that there is none.
    cc.cargo_warnings(false);
    let compiler = cc.try_get_compiler().map_err(|e| missing(&one_line(&e.to_string())))?;
    compiler.to_command().arg("--version").output().map_err(|e| missing(&e))?;
    for flag in cflags {
        cc.flag(flag);
    }
    cc.cargo_warnings(true).file("shim.c").opt_level(3).warnings(false).cargo_metadata(false);
    cc.try_compile("dpdk_shim").map_err(|e| {
        format!(
            "shim.c does not compile against this libdpdk ({}). Install: {INSTALL}",
            one_line(&e.to_string())
        )
    })?;
    // The shim calls into libdpdk, so it has to stand before it on the linker's command line.
    println!("cargo::rustc-link-search=native={}", env::var("OUT_DIR").unwrap_or_default());
    println!("cargo::rustc-link-lib=static=dpdk_shim");
    Ok(())
}

/// Shared libraries only: with them EAL loads the drivers of its own directory by itself.
fn link(libs: &[String]) {
    for flag in libs {
        if let Some(directory) = flag.strip_prefix("-L") {
            println!("cargo::rustc-link-search=native={directory}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
    }
}

fn generate(cflags: &[String], out: &Path) -> Result<(), String> {
    // bindgen panics when it cannot load libclang, and only says so on stderr.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let loaded = panic::catch_unwind(bindgen::clang_version);
    panic::set_hook(hook);
    if loaded.is_err() {
        return Err(format!("libclang cannot be loaded, which bindgen needs. Install it with: {INSTALL}"));
    }
    let bindings = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        // Macros made of other macros, such as RTE_BIT64(), are evaluated by clang in a scratch file.
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(out)
        .parse_callbacks(Box::new(MacroTypes))
        .allowlist_item("(rte|RTE|shim|SHIM)_.*")
        // Thread-local variables: bound as plain statics they link, and crash when read.
        .blocklist_item("per_lcore_.*")
        // Packed around an aligned member, which Rust has no type for.
        .opaque_type("rte_arp_(ipv4|hdr)")
        .prepend_enum_name(false)
        .derive_debug(false)
        .derive_default(true)
        .layout_tests(false)
        .generate_comments(false)
        .generate()
        .map_err(|e| {
            format!("libclang cannot read DPDK's headers ({}). Install: {INSTALL}", one_line(&e.to_string()))
        })?;
    bindings.write_to_file(out.join("bindings.rs")).map_err(|e| format!("bindings.rs: {e}"))
}

/// mbuf and offload flags as u64, where clang would give some of them as u32.
#[derive(Debug)]
struct MacroTypes;

impl bindgen::callbacks::ParseCallbacks for MacroTypes {
    fn int_macro(&self, name: &str, _value: i64) -> Option<bindgen::callbacks::IntKind> {
        let flags = ["RTE_MBUF_F_", "RTE_ETH_RX_OFFLOAD_", "RTE_ETH_TX_OFFLOAD_", "RTE_ETH_RSS_"];
        flags.iter().any(|prefix| name.starts_with(prefix)).then_some(bindgen::callbacks::IntKind::U64)
    }
}

/// The first line that says "error", or else the first.
fn one_line(text: &str) -> String {
    let line = text.lines().find(|line| line.contains("error")).or_else(|| text.lines().next());
    line.unwrap_or("no reason given").trim().to_owned()
}
