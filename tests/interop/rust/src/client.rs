//! Calls of imagecall, with tonic.
// README: begin
use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{env, fs, iter, mem, time::Duration};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status};
use tonic_types::StatusExt;
use v1::conversion::Input;
use v1::conversion_result::Output;
use v1::conversion_service_client::ConversionServiceClient;
use v1::image_generation_service_client::ImageGenerationServiceClient;
use v1::stream_image_response::Part;
use v1::{
    Chunk, ChunkEnd, Conversion, ConversionResult, ConvertCallsRequest, ImageGenerationCall,
    ImageRequest, StreamEnd, StreamEnding, StreamImageRequest,
};

pub mod v1 {
    tonic::include_proto!("imagecall.v1");
}

const BATCH: usize = 65_536; // bytes of a message with many items

pub type Connection = InterceptedService<Channel, Token>;

/// Calls over TLS, with a token, if the environment names a CA file.
pub async fn connect(address: &str) -> Result<Connection> {
    let Ok(authorities) = env::var("IMAGECALL_TLS_CA") else {
        let endpoint = Channel::from_shared(format!("http://{address}"))?;
        return Ok(InterceptedService::new(
            endpoint.connect().await?,
            Token(None),
        ));
    };
    // CAs of the system: the feature tls-native-roots of tonic, and with_native_roots().
    let authorities = Certificate::from_pem(fs::read(authorities)?);
    let endpoint = Channel::from_shared(format!("https://{address}"))?
        .tls_config(ClientTlsConfig::new().ca_certificate(authorities))?;
    let token = format!("Bearer {}", env::var("IMAGECALL_TOKEN")?).parse()?;
    Ok(InterceptedService::new(
        endpoint.connect().await?,
        Token(Some(token)),
    ))
}

#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Returns the image, of any size.
pub async fn stream_image(
    client: &mut ImageGenerationServiceClient<Connection>,
    request: ImageRequest,
) -> Result<Vec<u8>> {
    let mut request = Request::new(StreamImageRequest {
        request: Some(request),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(120));
    // The call ends when the parts are dropped, so also where an error is returned.
    let mut parts = client.stream_image(request).await?.into_inner();
    let (mut value, mut image, mut end) = (Value::default(), None, None);
    while let Some(response) = parts.message().await? {
        if let Some(Part::Chunk(chunk)) = response.part {
            let is_final = chunk.end.as_ref().is_some_and(|end| end.final_image);
            let whole = value.add(chunk)?;
            if is_final {
                image = whole; // others: a partial image, a very long text
            }
            continue;
        }
        value.require_complete()?;
        if let Some(Part::End(last)) = response.part {
            end = Some(last); // or an event, which reports progress
        }
    }
    completed(image, end.context("the stream has no end")?)
}

fn completed(image: Option<Vec<u8>>, end: StreamEnd) -> Result<Vec<u8>> {
    let ending = end.ending();
    if let Some(image) = image.filter(|image| !image.is_empty())
        && ending == StreamEnding::Completed
    {
        return Ok(image);
    }
    let response = end.response.unwrap_or_default();
    let reasons = [
        response.error.and_then(|error| error.message),
        response
            .incomplete_details
            .and_then(|details| details.reason),
        response.refusal,
        response.output_text,
    ];
    let reason = reasons.into_iter().flatten().next().unwrap_or_default();
    bail!("no image: {}: {reason}", ending.as_str_name())
}

/// Converts items, a line of JSON each. The lines are sent as bytes, in a chunk each: one that is
/// not UTF-8 is refused alone. A Rust string cannot hold it.
pub async fn convert_lines<Lines>(
    client: &mut ConversionServiceClient<Connection>,
    lines: Lines,
    mut each: impl FnMut(ConversionResult),
) -> Result<()>
where
    Lines: IntoIterator<Item = Vec<u8>>,
    Lines::IntoIter: Send + 'static,
{
    let requests = tokio_stream::iter(requests(lines.into_iter()));
    let mut responses = client.convert_calls(requests).await?.into_inner();
    let mut value = Value::default();
    while let Some(response) = responses.message().await? {
        for mut result in response.results {
            if let Some(Output::CallChunk(chunk)) = result.output {
                let Some(whole) = value.add(chunk)? else {
                    continue;
                };
                let call = ImageGenerationCall::decode(&whole[..])?;
                result.output = Some(Output::Call(call));
            }
            each(result);
        }
    }
    value.require_complete()
}

/// Messages of about 64 KiB.
fn requests(mut lines: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = ConvertCallsRequest> {
    iter::from_fn(move || {
        let (mut conversions, mut size) = (Vec::new(), 0);
        while size < BATCH
            && let Some(line) = lines.next()
        {
            size += line.len();
            conversions.push(conversion(line));
        }
        (size > 0).then_some(ConvertCallsRequest { conversions })
    })
}

fn conversion(line: Vec<u8>) -> Conversion {
    let end = ChunkEnd {
        size: line.len() as u32,
        sha256: Sha256::digest(&line).to_vec(),
        ..Default::default()
    };
    let chunk = Chunk {
        offset: 0,
        data: line,
        end: Some(end),
    };
    Conversion {
        input: Some(Input::JsonChunk(chunk)),
        ..Default::default()
    }
}

/// Part of a value that has arrived.
#[derive(Default)]
struct Value(Vec<u8>);

impl Value {
    /// Returns the whole value with its last chunk, and None before.
    fn add(&mut self, chunk: Chunk) -> Result<Option<Vec<u8>>> {
        ensure!(chunk.offset as usize == self.0.len(), "a chunk is lost");
        self.0.extend(chunk.data);
        let Some(end) = chunk.end else {
            return Ok(None);
        };
        let whole = mem::take(&mut self.0);
        let is_right = end.size as usize == whole.len() && end.sha256 == Sha256::digest(&whole)[..];
        ensure!(is_right, "the value is damaged");
        Ok(Some(whole))
    }

    fn require_complete(&self) -> Result<()> {
        ensure!(self.0.is_empty(), "a chunk is lost");
        Ok(())
    }
}

/// Returns the message of an error, with the details that came with it.
pub fn explain(error: &anyhow::Error) -> String {
    let Some(status) = error.downcast_ref::<Status>() else {
        return format!("{error:#}"); // not an error of a call
    };
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let details = status.get_error_details();
    if let Some(info) = details.error_info() {
        text += &format!(", reason {}", info.reason);
    }
    if let Some(bad_request) = details.bad_request() {
        for violation in &bad_request.field_violations {
            text += &format!(", at {}", violation.field);
        }
    }
    if let Some(delay) = details.retry_info().and_then(|retry| retry.retry_delay) {
        text += &format!(", retry after {} s", delay.as_secs_f64());
    }
    text
}
// README: end
