//! Checks that a client in Rust and the server agree: see ../README.md.

use anyhow::{Context, Result, bail, ensure};
use client::v1::conversion_result::Output;
use client::v1::conversion_service_client::ConversionServiceClient;
use client::v1::image_generation_call::Variant;
use client::v1::image_generation_service_client::ImageGenerationServiceClient;
use client::v1::image_result::Kind;
use client::v1::stream_image_response::Part;
use client::v1::{
    Document, ErrorReason, ExtraField, FormatCallRequest, GenerateImageRequest,
    ImageGenerationCall, ImageRequest, ImageResult, OutputImageGenerationCall, ParseCallRequest,
    StreamEvent, StreamImageRequest, Tool,
};
use client::{Connection, connect, convert_lines, stream_image};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fmt::Display, fs};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

const SCHEMA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.binpb"));
const WRONG_ITEM: &str = r#"{"type":"image_generation_call","id":5}"#;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, cases, out, damaged] = &arguments[..] else {
        bail!("expected ADDRESS CASES OUT DAMAGED");
    };
    let connection = connect(address).await?;

    let schema = DescriptorPool::decode(SCHEMA)?;
    for path in messages(cases.as_ref())? {
        let name = path.strip_prefix(cases)?;
        let result = case(
            &connection,
            &schema,
            &path,
            name,
            &Path::new(out).join(name),
        )
        .await;
        report(name.with_extension("").display(), result);
    }
    report("ConvertCalls", convert_calls(&connection).await);
    report("StreamImage", large_image(&connection).await);
    report("error details", error_details(&connection).await);
    report("deadline", deadline(&connection).await);
    report("cancellation", cancellation(&connection).await);
    report(
        "cancellation when damaged",
        cancellation_when_damaged(damaged).await,
    );
    report("many calls", many_calls(address).await);
    report("health", health(&connection).await);
    Ok(())
}

fn report(name: impl Display, result: Result<()>) {
    let line = match result {
        Ok(()) => "ok".into(),
        Err(error) => match error.downcast_ref::<Status>() {
            Some(status) => format!("{:?}: {}", status.code(), status.message()),
            None => format!("{error:#}"),
        },
    };
    println!("{name}\t{}", line.replace('\n', " "));
}

/// The .binpb files in a directory and those below it.
fn messages(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(messages(&path)?);
        } else if path.extension().is_some_and(|suffix| suffix == "binpb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

async fn case(
    connection: &Connection,
    schema: &DescriptorPool,
    path: &Path,
    name: &Path,
    out: &Path,
) -> Result<()> {
    let message = fs::read(path)?;
    let expected: Value = serde_json::from_slice(&fs::read(path.with_extension("expected.json"))?)?;
    let type_name = expected["message"].as_str().context("no message type")?;
    // prost has no registry of its types.
    let again = match type_name {
        "imagecall.v1.Document" => through::<Document>(&message),
        "imagecall.v1.ImageGenerationCall" => through::<ImageGenerationCall>(&message),
        "imagecall.v1.StreamEvent" => through::<StreamEvent>(&message),
        "imagecall.v1.Tool" => through::<Tool>(&message),
        _ => bail!("no type {type_name} here"),
    }?;
    let directory = name.parent().context("no directory")?;
    fs::create_dir_all(out.with_file_name(""))?;
    fs::write(out, &again)?;

    if directory.starts_with("items") {
        let mut client = ConversionServiceClient::new(connection.clone());
        let variant = directory.file_name().context("no variant")?;
        let request = ParseCallRequest {
            json: fs::read_to_string(path.with_extension("json"))?,
            variant: variant.to_string_lossy().into(),
            ..Default::default()
        };
        let parsed = client.parse_call(request).await?.into_inner();
        let parsed = parsed.call.context("no call")?.encode_to_vec();
        fs::write(out.with_extension("parsed.binpb"), parsed)?;
        let call = Some(ImageGenerationCall::decode(&message[..])?);
        let formatted = client.format_call(FormatCallRequest { call }).await?;
        fs::write(out.with_extension("json"), formatted.into_inner().json)?;
    }

    let descriptor = schema.get_message_by_name(type_name).context("no type")?;
    let fields = serde_json::to_value(DynamicMessage::decode(descriptor, &again[..])?)?;
    ensure!(
        fields == expected["fields"],
        "prints {:.200}",
        fields.to_string()
    );
    Ok(())
}

fn through<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>> {
    Ok(M::decode(bytes)?.encode_to_vec())
}

async fn convert_calls(connection: &Connection) -> Result<()> {
    const COUNT: u32 = 10_000;
    const WRONG: u32 = 5_000;
    let line = |n| match n {
        WRONG => WRONG_ITEM.into(),
        _ => format!(r#"{{"type":"image_generation_call","id":"ig_{n}","result":"aGk="}}"#),
    };
    let lines = (0..COUNT).map(move |n| line(n).into_bytes());
    let mut client = ConversionServiceClient::new(connection.clone());
    let mut results = Vec::new();
    convert_lines(&mut client, lines, |result| results.push(result)).await?;
    ensure!(results.len() == COUNT as usize, "{} answers", results.len());
    for (n, result) in (0..).zip(results) {
        let right = match &result.output {
            Some(Output::Call(call)) => n != WRONG && *call == output_call(n),
            Some(Output::Error(error)) => {
                n == WRONG && error.reason() == ErrorReason::WrongType && error.pointer == "/id"
            }
            _ => false,
        };
        ensure!(right && result.index == n, "number {n}: {result:?}");
    }
    Ok(())
}

fn output_call(n: u32) -> ImageGenerationCall {
    let result = ImageResult {
        kind: Some(Kind::Image(b"hi".into())),
    };
    let call = OutputImageGenerationCall {
        id: Some(format!("ig_{n}")),
        result: Some(result),
        ..Default::default()
    };
    ImageGenerationCall {
        variant: Some(Variant::OutputImageGenerationCall(call)),
    }
}

/// A request that the embedded backend deals with as `json` says.
fn embedded(json: &str) -> ImageRequest {
    let extra_field = ExtraField {
        name: "embedded".into(),
        json: json.into(),
    };
    ImageRequest {
        prompt: "a fox".into(),
        extra_fields: vec![extra_field],
        ..Default::default()
    }
}

async fn large_image(connection: &Connection) -> Result<()> {
    let mut client = ImageGenerationServiceClient::new(connection.clone());
    let request = embedded(r#"{"image_bytes":20000000}"#);
    let image = stream_image(&mut client, request).await?;
    ensure!(image.len() == 20_000_000, "{} bytes", image.len());
    Ok(())
}

async fn error_details(connection: &Connection) -> Result<()> {
    let mut client = ConversionServiceClient::new(connection.clone());
    let request = ParseCallRequest {
        json: WRONG_ITEM.into(),
        ..Default::default()
    };
    let status = client.parse_call(request).await.err().context("no error")?;
    ensure!(status.code() == Code::InvalidArgument, status);
    let details = status.get_error_details();
    let bad_request = details.bad_request().context("no BadRequest")?;
    let fields: Vec<_> = bad_request
        .field_violations
        .iter()
        .map(|violation| &violation.field)
        .collect();
    ensure!(fields == ["/id"], "fields {fields:?}");
    let info = details.error_info().context("no ErrorInfo")?;
    ensure!(
        info.reason == "WRONG_TYPE" && info.domain == "imagecall",
        "{info:?}"
    );
    Ok(())
}

async fn deadline(connection: &Connection) -> Result<()> {
    let mut client = ImageGenerationServiceClient::new(connection.clone());
    let mut request = Request::new(GenerateImageRequest {
        request: Some(embedded(r#"{"delay_seconds":60}"#)),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(500));
    let start = Instant::now();
    let result = client.generate_image(request).await;
    let taken = start.elapsed();
    let status = result.err().context("no error")?;
    // tonic keeps the deadline itself, and calls it CANCELLED.
    let expired = status.code() == Code::Cancelled && status.message() == "Timeout expired";
    ensure!(expired || status.code() == Code::DeadlineExceeded, status);
    ensure!(taken < Duration::from_secs(2), "after {taken:?}");
    Ok(())
}

async fn cancellation(connection: &Connection) -> Result<()> {
    let mut client = ImageGenerationServiceClient::new(connection.clone());
    let request = StreamImageRequest {
        request: Some(embedded(r#"{"image_bytes":20000000}"#)),
        ..Default::default()
    };
    let mut parts = client.stream_image(request).await?.into_inner();
    loop {
        let response = parts.message().await?.context("no chunk")?;
        if let Some(Part::Chunk(_)) = response.part {
            break;
        }
    }
    // This cancels the call. tonic has no other way, and gives no status for it.
    drop(parts);
    health(connection).await
}

/// Calls a server that answers for its health once the stream is cancelled.
async fn cancellation_when_damaged(address: &str) -> Result<()> {
    let connection = connect(address).await?;
    let mut client = ImageGenerationServiceClient::new(connection.clone());
    let error = stream_image(&mut client, embedded("{}")).await.err();
    let error = error.context("no error")?;
    ensure!(error.to_string() == "a chunk is lost", error);
    health(&connection).await
}

/// Generates images at once over a new connection.
async fn many_calls(address: &str) -> Result<()> {
    let client = ImageGenerationServiceClient::new(connect(address).await?);
    let mut calls = JoinSet::new();
    for _ in 0..1_000 {
        let mut client = client.clone();
        let request = GenerateImageRequest {
            request: Some(embedded(r#"{"delay_seconds":0.1}"#)),
            ..Default::default()
        };
        calls.spawn(async move { client.generate_image(request).await });
    }
    while let Some(answer) = calls.join_next().await {
        answer??;
    }
    Ok(())
}

async fn health(connection: &Connection) -> Result<()> {
    let request = HealthCheckRequest {
        service: "imagecall.v1.ImageGenerationService".into(),
    };
    let mut client = HealthClient::new(connection.clone());
    let status = client.check(request).await?.into_inner().status();
    ensure!(status == ServingStatus::Serving, "{status:?}");
    Ok(())
}
