// README: begin
import { type CallOptions, type Client, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  ImageGenerationService,
  StreamEnding,
} from "./dist/gen/imagecall/v1/image_generation_service_pb";
import type { ImageRequestSchema } from "./dist/gen/imagecall/v1/image_request_pb";

export function imageClient(baseUrl: string): Client<typeof ImageGenerationService> {
  return createClient(ImageGenerationService, createGrpcWebTransport({ baseUrl }));
}

/** The image that a request asks for, such as {prompt: "a red fox in the snow"}: a PNG, a JPEG, ... */
export async function streamImage(
  client: Client<typeof ImageGenerationService>,
  request: MessageInitShape<typeof ImageRequestSchema>,
  options?: CallOptions,
): Promise<Blob> {
  let pieces: Uint8Array<ArrayBuffer>[] = [];
  let size = 0; // of the pieces
  let image: Blob | undefined;
  let ending = StreamEnding.UNSPECIFIED;
  for await (const { part } of client.streamImage({ request }, options)) {
    if (part.case === "end") ending = part.value.ending;
    if (part.case !== "chunk") continue; // an event, such as "output_item.added"
    const { offset, data, end } = part.value;
    if (offset !== size) throw new Error("a chunk is lost");
    pieces.push(data.slice()); // by its type, data could be shared memory, which no Blob takes
    size += data.length;
    if (!end) continue;
    const whole = new Blob(pieces, { type: end.mediaType });
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await whole.arrayBuffer()));
    if (size !== end.size || digest.some((byte, at) => byte !== end.sha256[at])) {
      throw new Error("the image is damaged");
    }
    if (end.finalImage) image = whole; // others: a partial image, a very long text
    [pieces, size] = [[], 0];
  }
  if (!image || size) throw new Error(`there is no whole image: ${StreamEnding[ending]}`);
  return image;
}
// README: end
