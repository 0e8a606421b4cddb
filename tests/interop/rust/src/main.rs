//! Checks that a client in Rust and the server agree: see ../README.md.

mod first_call;

use anyhow::{Context, Result, bail, ensure};
use first_call::{fox, stream_image, v1};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, fmt::Display, fs};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;
use v1::conversion::Input;
use v1::conversion_result::Output;
use v1::conversion_service_client::ConversionServiceClient;
use v1::image_generation_call::Variant;
use v1::image_generation_service_client::ImageGenerationServiceClient;
use v1::image_result::Kind;
use v1::stream_image_response::Part;
use v1::{
    Conversion, ConvertCallsRequest, Document, ErrorReason, ExtraField, FormatCallRequest,
    GenerateImageRequest, ImageGenerationCall, ImageRequest, ImageResult,
    OutputImageGenerationCall, ParseCallRequest, StreamEnding, StreamEvent, StreamImageRequest,
    Tool,
};

const SCHEMA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.binpb"));
const WRONG_ITEM: &str = r#"{"type":"image_generation_call","id":5}"#;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, cases, out, ..] = &arguments[..] else {
        bail!("expected ADDRESS CASES OUT");
    };
    let address = format!("http://{address}");
    let channel = Channel::from_shared(address.clone())?.connect_lazy();

    let schema = DescriptorPool::decode(SCHEMA)?;
    for path in messages(cases.as_ref())? {
        let name = path.strip_prefix(cases)?;
        let result = case(&channel, &schema, &path, name, &Path::new(out).join(name)).await;
        report(name.with_extension("").display(), result);
    }
    report("ConvertCalls", convert_calls(&channel).await);
    report("StreamImage", large_image(&channel, address.clone()).await);
    report("error details", error_details(&channel).await);
    report("deadline", deadline(&channel).await);
    report("cancellation", cancellation(&channel).await);
    report("many calls", many_calls(address).await);
    report("health", health(&channel).await);
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
    channel: &Channel,
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
        let mut client = ConversionServiceClient::new(channel.clone());
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

async fn convert_calls(channel: &Channel) -> Result<()> {
    const COUNT: u32 = 10_000;
    const BATCH: u32 = 250;
    const WRONG: u32 = 5_000;
    let item = |n| match n {
        WRONG => WRONG_ITEM.into(),
        _ => format!(r#"{{"type":"image_generation_call","id":"ig_{n}","result":"aGk="}}"#),
    };
    let conversion = move |n| Conversion {
        input: Some(Input::Json(item(n))),
        ..Default::default()
    };
    let requests = (0..COUNT / BATCH).map(move |batch| ConvertCallsRequest {
        conversions: (batch * BATCH..(batch + 1) * BATCH)
            .map(conversion)
            .collect(),
    });
    let mut client = ConversionServiceClient::new(channel.clone());
    let responses = client.convert_calls(tokio_stream::iter(requests)).await?;
    let mut responses = responses.into_inner();
    let mut n = 0;
    while let Some(response) = responses.message().await? {
        for result in response.results {
            let right = match &result.output {
                Some(Output::Call(call)) => n != WRONG && *call == output_call(n),
                Some(Output::Error(error)) => {
                    n == WRONG && error.reason() == ErrorReason::WrongType && error.pointer == "/id"
                }
                _ => false,
            };
            ensure!(right && result.index == n, "number {n}: {result:?}");
            n += 1;
        }
    }
    ensure!(n == COUNT, "{n} answers");
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

async fn large_image(channel: &Channel, address: String) -> Result<()> {
    let (image, _) = fox(address).await?;
    ensure!(image.starts_with(b"\x89PNG"), "the fox is no PNG");
    let mut client = ImageGenerationServiceClient::new(channel.clone());
    let request = embedded(r#"{"image_bytes":20000000}"#);
    let (image, end) = stream_image(&mut client, request).await?;
    ensure!(image.len() == 20_000_000, "{} bytes", image.len());
    let ending = end.ending();
    ensure!(ending == StreamEnding::Completed, "ending {ending:?}");
    Ok(())
}

async fn error_details(channel: &Channel) -> Result<()> {
    let mut client = ConversionServiceClient::new(channel.clone());
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

async fn deadline(channel: &Channel) -> Result<()> {
    let mut client = ImageGenerationServiceClient::new(channel.clone());
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

async fn cancellation(channel: &Channel) -> Result<()> {
    let mut client = ImageGenerationServiceClient::new(channel.clone());
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
    health(channel).await
}

/// Generates images at once over a new connection.
async fn many_calls(address: String) -> Result<()> {
    let channel = Channel::from_shared(address)?.connect_lazy();
    let client = ImageGenerationServiceClient::new(channel);
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

async fn health(channel: &Channel) -> Result<()> {
    let request = HealthCheckRequest {
        service: "imagecall.v1.ImageGenerationService".into(),
    };
    let mut client = HealthClient::new(channel.clone());
    let status = client.check(request).await?.into_inner().status();
    ensure!(status == ServingStatus::Serving, "{status:?}");
    Ok(())
}
