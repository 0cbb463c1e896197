//! Compiles the protos with protox, so that no protoc has to be installed. Writes the descriptors to a file, which the
//! server uses for reflection and for the names of its methods.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const SERVICES: [&str; 6] = ["queue", "concert", "reservation", "wallet", "payment", "admin"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<String> = SERVICES.iter().map(|name| format!("boxoffice/v1/{name}_service.proto")).collect();
    files.push("boxoffice/v1/error_reason.proto".to_owned());

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("boxoffice.v1.bin");
    fs::write(&descriptors, compiler.file_descriptor_set().encode_to_vec())?;

    tonic_prost_build::configure()
        .file_descriptor_set_path(&descriptors)
        .skip_protoc_run()
        .codec_path("crate::rpc::codec::Codec")
        .compile_protos(&files, &["proto".to_owned()])?;
    Ok(())
}
