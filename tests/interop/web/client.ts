// Calls of imagecall, with connect.
// README: begin
import { type CallOptions, type Client, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "./dist/gen/google/rpc/error_details_pb";
import type { Chunk } from "./dist/gen/imagecall/v1/chunk_pb";
import {
  ImageGenerationService,
  type StreamEnd,
  StreamEnding,
} from "./dist/gen/imagecall/v1/image_generation_service_pb";
import type { ImageRequestSchema } from "./dist/gen/imagecall/v1/image_request_pb";

/** Calls the server at a URL, over TLS if it begins with https, with a token if there is one. */
export function connect(
  baseUrl: string,
  token?: string | null,
): Client<typeof ImageGenerationService> {
  const transport = createGrpcWebTransport({
    baseUrl,
    interceptors: [
      (next) => (request) => {
        if (token) request.header.set("authorization", `Bearer ${token}`);
        return next(request);
      },
    ],
  });
  return createClient(ImageGenerationService, transport);
}

/** Returns the image, of any size: a PNG, a JPEG, ... */
export async function streamImage(
  client: Client<typeof ImageGenerationService>,
  request: MessageInitShape<typeof ImageRequestSchema>,
  options: CallOptions = {},
): Promise<Blob> {
  const left = new AbortController();
  const signal = AbortSignal.any([left.signal, ...(options.signal ? [options.signal] : [])]);
  const value = new Value();
  let image: Blob | undefined;
  let end: StreamEnd | undefined;
  try {
    for await (const { part } of client.streamImage({ request }, { ...options, signal })) {
      if (part.case === "chunk") {
        const whole = await value.add(part.value);
        if (part.value.end?.finalImage) image = whole; // others: a partial image, a very long text
      } else {
        value.requireComplete();
        end = part.case === "end" ? part.value : undefined; // an event reports progress
      }
    }
  } finally {
    left.abort(); // connect does not end the call when the loop is left early
  }
  if (!end) throw new Error("the stream has no end");
  if (end.ending !== StreamEnding.COMPLETED || !image?.size) {
    const { error, incompleteDetails, refusal, outputText } = end.response ?? {};
    const reason = error?.message || incompleteDetails?.reason || refusal || outputText;
    throw new Error(`no image: ${StreamEnding[end.ending]}: ${reason ?? ""}`);
  }
  return image;
}

/** Part of a value that has arrived. */
class Value {
  #chunks: Uint8Array<ArrayBuffer>[] = [];
  #size = 0;

  /** Returns the whole value with its last chunk, and undefined before. */
  async add({ offset, data, end }: Chunk): Promise<Blob | undefined> {
    if (offset !== this.#size) throw new Error("a chunk is lost");
    this.#chunks.push(data.slice()); // by its type, data could be shared memory, which no Blob takes
    this.#size += data.length;
    if (!end) return undefined;
    const whole = new Blob(this.#chunks, { type: end.mediaType });
    this.#chunks = [];
    this.#size = 0;
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await whole.arrayBuffer()));
    if (whole.size !== end.size || digest.some((byte, at) => byte !== end.sha256[at]))
      throw new Error("the value is damaged");
    return whole;
  }

  requireComplete(): void {
    if (this.#size) throw new Error("a chunk is lost");
  }
}

/** Returns the message of an error, with the details that came with it. */
export function explain(error: unknown): string {
  if (!(error instanceof ConnectError)) return String(error);
  let text = error.message;
  for (const { reason } of error.findDetails(ErrorInfoSchema)) text += `, reason ${reason}`;
  for (const { fieldViolations } of error.findDetails(BadRequestSchema))
    for (const { field } of fieldViolations) text += `, at ${field}`;
  for (const { retryDelay } of error.findDetails(RetryInfoSchema))
    text += `, retry after ${retryDelay?.seconds} s`;
  return text;
}
// README: end
