//! Compiles the protos with protox, so that no protoc has to be installed. Writes the descriptors to a file, which the
//! server uses for reflection and for the names of its methods.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;
use tonic_prost_build::Builder;

const SERVICES: [&str; 7] = ["queue", "concert", "reservation", "wallet", "payment", "admin", "event"];

/// The answers that the server encodes once for all callers who ask for the same list.
const SHARED_ANSWERS: [&str; 2] = ["ListPerformancesResponse", "ListSeatsResponse"];

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
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = out_dir.join("boxoffice.v1.bin");
    fs::write(&descriptors, compiler.file_descriptor_set().encode_to_vec())?;

    let configured = || {
        tonic_prost_build::configure()
            .file_descriptor_set_path(&descriptors)
            .skip_protoc_run()
            .codec_path("crate::rpc::codec::Codec")
    };
    let includes = ["proto".to_owned()];
    with_json(configured().build_server(false)).compile_protos(&files, &includes)?;

    let servers = out_dir.join("servers");
    fs::create_dir_all(&servers)?;
    let builder = configured().build_client(false).out_dir(servers).extern_path(".boxoffice.v1", "crate::rpc::proto");
    with_shared_answers(builder).compile_protos(&files, &includes)?;
    Ok(())
}

/// Makes the servers answer some calls with a message that is encoded once for many callers.
fn with_shared_answers(builder: Builder) -> Builder {
    SHARED_ANSWERS.iter().fold(builder, |builder, message| {
        let encoded = format!("crate::rpc::Encoded<crate::rpc::proto::{message}>");
        builder.extern_path(format!(".boxoffice.v1.{message}"), encoded)
    })
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
