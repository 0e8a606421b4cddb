//! Converts the items of a file, a line each: convert ADDRESS FILE
// README: begin
use anyhow::{Result, ensure};
use client::v1::conversion_result::Output;
use client::v1::conversion_service_client::ConversionServiceClient;
use client::v1::image_generation_call::Variant;
use client::v1::{ConversionResult, image_result::Kind};
use client::{connect, convert_lines, explain};
use std::io::{BufRead, BufReader};
use std::{env, fs::File, io, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match convert(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn convert(arguments: &[String]) -> Result<()> {
    ensure!(arguments.len() == 3, "usage: convert ADDRESS FILE");
    let file = BufReader::new(File::open(&arguments[2])?);
    let lines = file.split(b'\n').collect::<io::Result<Vec<_>>>()?; // bytes, as lines() needs UTF-8
    let mut client = ConversionServiceClient::new(connect(&arguments[1]).await?);
    convert_lines(&mut client, lines, report).await
}

fn report(result: ConversionResult) {
    let index = result.index;
    match result.output {
        Some(Output::Error(error)) => {
            let reason = error.reason().as_str_name();
            println!("{index}: {reason} at {}: {}", error.pointer, error.message);
        }
        Some(Output::Call(call)) => {
            if let Some(Variant::OutputImageGenerationCall(call)) = call.variant {
                let size = match call.result.and_then(|result| result.kind) {
                    Some(Kind::Image(image)) => image.len(),
                    _ => 0,
                };
                println!("{index}: {}, {size} bytes", call.id.unwrap_or_default());
            }
        }
        _ => {}
    }
}
// README: end
