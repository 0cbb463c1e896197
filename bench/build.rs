//! Compiles the proto of the echo with protox, so that the build needs no installed protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILE: &str = "boxoffice/bench/echo.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("echo.bin");
    fs::write(&descriptors, protox::compile([FILE], ["proto"])?.encode_to_vec())?;
    tonic_prost_build::configure()
        .file_descriptor_set_path(&descriptors)
        .skip_protoc_run()
        .bytes(".")
        // The echo uses the codec of boxoffice, so that buffer sizes cause no difference.
        .codec_path("boxoffice::rpc::codec::Codec")
        .compile_protos(&[FILE], &["proto"])?;
    Ok(())
}
