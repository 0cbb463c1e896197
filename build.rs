//! Compiles the protos with protox, so that no protoc has to be installed. Writes the descriptors to a file, which the
//! server uses for reflection and for the names of its methods.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use tonic_prost_build::Builder;

const SERVICES: [&str; 7] = ["queue", "concert", "reservation", "wallet", "payment", "admin", "event"];

/// The messages that `boxoffice events` prints as JSON: Event, and the messages of boxoffice that it contains.
const PRINTED: [&str; 20] = [
    "Event",
    "TokenIssued",
    "TokensAdmitted",
    "TokensExpired",
    "TokenLeft",
    "SeatsHeld",
    "HoldExtended",
    "SeatsReleased",
    "PaymentMade",
    "PaymentRefunded",
    "WalletOpened",
    "WalletCharged",
    "ConcertCreated",
    "PerformanceAdded",
    "SaleUpdated",
    "DrawHeld",
    "PricedSection",
    "ReservedSeat",
    "Concert",
    "Draw",
];
/// The fields of these messages that are times, durations or enums. A function in `rpc/json.rs` converts each field.
const PRINTED_FIELDS: [(&str, &str); 11] = [
    ("Event.event_time", "timestamp"),
    ("TokensAdmitted.expire_time", "timestamp"),
    ("TokensAdmitted.claimed_expire_time", "timestamp"),
    ("SeatsHeld.expire_time", "timestamp"),
    ("HoldExtended.expire_time", "timestamp"),
    ("PerformanceAdded.start_time", "timestamp"),
    ("PerformanceAdded.sale_end_time", "timestamp"),
    ("Concert.open_time", "timestamp"),
    ("Concert.claim_ttl", "duration"),
    ("Concert.admission_order", "admission_order"),
    ("SeatsReleased.reason", "release_reason"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<String> = SERVICES.iter().map(|name| format!("boxoffice/v1/{name}_service.proto")).collect();
    files.push("boxoffice/v1/error_reason.proto".to_owned());
    files.push("boxoffice/stored/v1/event_batch.proto".to_owned());

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;
    let descriptors = PathBuf::from(env::var("OUT_DIR")?).join("boxoffice.v1.bin");
    fs::write(&descriptors, compiler.file_descriptor_set().encode_to_vec())?;

    let builder = tonic_prost_build::configure()
        .file_descriptor_set_path(&descriptors)
        .skip_protoc_run()
        .codec_path("crate::rpc::codec::Codec");
    with_json(builder).compile_protos(&files, &["proto".to_owned()])?;
    Ok(())
}

/// Derives the conversion to JSON for the printed messages. In JSON, `kind` is an object with one field, which has the
/// name of the kind.
fn with_json(builder: Builder) -> Builder {
    let builder = PRINTED.iter().fold(builder, |builder, message| {
        builder.type_attribute(format!(".boxoffice.v1.{message}"), "#[derive(serde::Serialize)]")
    });
    let builder = PRINTED_FIELDS.iter().fold(builder, |builder, (field, function)| {
        let attribute = format!("#[serde(serialize_with = \"crate::rpc::json::{function}\")]");
        builder.field_attribute(format!(".boxoffice.v1.{field}"), attribute)
    });
    builder.type_attribute(".boxoffice.v1.Event.kind", "#[serde(rename_all = \"snake_case\")]")
}
