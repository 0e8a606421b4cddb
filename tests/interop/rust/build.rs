use protox::prost::Message;
use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    // README: begin
    let proto = "../../../proto";
    println!("cargo::rerun-if-changed={proto}");
    let services = [
        "imagecall/v1/conversion_service.proto",
        "imagecall/v1/image_generation_service.proto",
    ];
    let schema = protox::compile(services, [proto])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(schema.clone())?;
    // README: end

    // prost has neither reflection nor ProtoJSON: prost-reflect reads the schema for both.
    let path = Path::new(&env::var("OUT_DIR")?).join("schema.binpb");
    fs::write(path, schema.encode_to_vec())?;
    Ok(())
}
