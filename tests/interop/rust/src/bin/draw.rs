//! Draws a fox: draw ADDRESS FILE
// README: begin
use anyhow::{Result, ensure};
use client::v1::ImageRequest;
use client::v1::image_generation_service_client::ImageGenerationServiceClient;
use client::{connect, explain, stream_image};
use std::{env, fs, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    match draw(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn draw(arguments: &[String]) -> Result<()> {
    ensure!(arguments.len() == 3, "usage: draw ADDRESS FILE");
    let mut client = ImageGenerationServiceClient::new(connect(&arguments[1]).await?);
    let request = ImageRequest {
        prompt: "a red fox in the snow".into(),
        ..Default::default()
    };
    let image = stream_image(&mut client, request).await?;
    Ok(fs::write(&arguments[2], image)?)
}
// README: end
