//! Makes `sys/entry.rs` the program's entry point where that is compiled in.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let has = |name: &str| std::env::var_os(name).is_some();
    let is_x86_64 = std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64");
    if is_x86_64 && !has("CARGO_CFG_DEBUG_ASSERTIONS") {
        println!("cargo:rustc-link-arg-bin=corten=-Wl,--entry=corten_entry");
    }
}
