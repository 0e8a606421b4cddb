// The first call. `node dist/stream-image.js` draws a fox.
// README: begin
import { createHash } from "node:crypto";
import { writeFile } from "node:fs/promises";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type * as pb from "@bufbuild/protobuf";
import { Client, credentials } from "@grpc/grpc-js";
import * as images from "./gen/imagecall/v1/image_generation_service_pb.js";
import type { ImageRequestSchema } from "./gen/imagecall/v1/image_request_pb.js";

/** A method as grpc-js calls it: its path, and how its messages become bytes. */
export function rpc<I extends pb.DescMessage, O extends pb.DescMessage>(
  method: pb.DescMethod & { input: I; output: O },
) {
  return [
    `/${method.parent.typeName}/${method.name}`,
    (input: pb.MessageShape<I>) => Buffer.from(toBinary(method.input, input)),
    (bytes: Buffer) => fromBinary(method.output, bytes),
  ] as const;
}
// README: end

// README: begin
/** Draws an image: its bytes, checked, and how the stream ended. */
export async function streamImage(
  client: Client,
  request: pb.MessageInitShape<typeof ImageRequestSchema>,
) {
  const call = client.makeServerStreamRequest(
    ...rpc(images.ImageGenerationService.method.streamImage),
    create(images.StreamImageRequestSchema, { request }),
    { deadline: Date.now() + 120_000 },
  );
  const parts: AsyncIterable<images.StreamImageResponse> = call;
  let chunks: Uint8Array[] = []; // of the value that is arriving
  let size = 0;
  let image: Buffer | undefined;
  let end: images.StreamEnd | undefined;
  try {
    for await (const { part } of parts) {
      if (part.case === "end") end = part.value;
      if (part.case !== "chunk") continue;
      const chunk = part.value;
      if (chunk.offset !== size) throw new Error("a chunk is lost");
      size += chunk.data.length;
      chunks.push(chunk.data);
      if (!chunk.end) continue;
      const value = Buffer.concat(chunks);
      const sha256 = createHash("sha256").update(value).digest();
      if (size !== chunk.end.size || !sha256.equals(chunk.end.sha256))
        throw new Error("the image is damaged");
      // Not a partial image, nor another large value.
      if (chunk.end.finalImage) image = value;
      chunks = [];
      size = 0;
    }
  } finally {
    call.cancel(); // grpc-js does not when the loop is left early
  }
  if (!image || !end) throw new Error("no image came");
  return { image, end };
}

if (process.argv[1] === import.meta.filename) {
  const client = new Client("127.0.0.1:50051", credentials.createInsecure());
  const fox = await streamImage(client, { prompt: "a red fox in the snow" });
  await writeFile("fox.png", fox.image);
  client.close();
}
// README: end
