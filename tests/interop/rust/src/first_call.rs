// README: begin
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tonic::transport::Channel;
use v1::image_generation_service_client::ImageGenerationServiceClient;
use v1::{ImageRequest, StreamEnd, StreamImageRequest, stream_image_response::Part};

#[allow(dead_code)]
pub mod v1 {
    tonic::include_proto!("imagecall.v1");
}

/// The address is such as "http://127.0.0.1:50051".
pub async fn fox(address: String) -> Result<(Vec<u8>, StreamEnd)> {
    let mut client = ImageGenerationServiceClient::connect(address).await?;
    let request = ImageRequest {
        prompt: "a red fox in the snow".into(),
        ..Default::default()
    };
    stream_image(&mut client, request).await
}

/// The image, of any size, and the end of the stream.
pub async fn stream_image(
    client: &mut ImageGenerationServiceClient<Channel>,
    request: ImageRequest,
) -> Result<(Vec<u8>, StreamEnd)> {
    let request = StreamImageRequest {
        request: Some(request),
        ..Default::default()
    };
    let mut parts = client.stream_image(request).await?.into_inner();
    let (mut bytes, mut image, mut end) = (Vec::new(), None, None);
    while let Some(response) = parts.message().await? {
        match response.part {
            Some(Part::Chunk(chunk)) => {
                ensure!(chunk.offset as usize == bytes.len(), "a chunk is lost");
                bytes.extend(chunk.data);
                let Some(whole) = chunk.end else { continue };
                ensure!(whole.size as usize == bytes.len(), "a chunk is lost");
                ensure!(whole.sha256 == Sha256::digest(&bytes)[..], "damaged");
                let value = std::mem::take(&mut bytes);
                if whole.final_image {
                    image = Some(value); // others: a partial image, a very long text
                }
            }
            Some(Part::End(last)) => end = Some(last),
            _ => ensure!(bytes.is_empty(), "a chunk is lost"),
        }
    }
    let image = image.with_context(|| format!("no image: {end:?}"))?;
    Ok((image, end.context("no end")?))
}
// README: end
