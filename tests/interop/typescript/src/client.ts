// Calls of imagecall, with grpc-js.
// README: begin
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Readable, type Writable } from "node:stream";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type * as pb from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Client, credentials, Metadata, type ServiceError } from "@grpc/grpc-js";
import * as details from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import type { Chunk } from "./gen/imagecall/v1/chunk_pb.js";
import * as conversions from "./gen/imagecall/v1/conversion_service_pb.js";
import { ImageGenerationCallSchema } from "./gen/imagecall/v1/image_generation_call_pb.js";
import * as images from "./gen/imagecall/v1/image_generation_service_pb.js";
import type { ImageRequestSchema } from "./gen/imagecall/v1/image_request_pb.js";

/** Calls over TLS, with a token, if the environment names a CA file. */
export function connect(address: string) {
  const { IMAGECALL_TLS_CA: ca, IMAGECALL_TOKEN: token } = process.env;
  if (!ca) return new Client(address, credentials.createInsecure());
  const tls = credentials.createSsl(readFileSync(ca)); // those of the system: createSsl()
  const bearer = credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    done(null, metadata);
  });
  return new Client(address, credentials.combineChannelCredentials(tls, bearer));
}

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

/** Returns the image, of any size. */
export async function streamImage(
  client: Client,
  request: pb.MessageInitShape<typeof ImageRequestSchema>,
): Promise<Buffer> {
  const call = client.makeServerStreamRequest(
    ...rpc(images.ImageGenerationService.method.streamImage),
    create(images.StreamImageRequestSchema, { request }),
    { deadline: Date.now() + 120_000 },
  );
  const parts: AsyncIterable<images.StreamImageResponse> = call;
  const value = new Value();
  let image: Buffer | undefined;
  let end: images.StreamEnd | undefined;
  try {
    for await (const { part } of parts) {
      if (part.case === "chunk") {
        const whole = value.add(part.value);
        // Others are partial images, or long texts.
        if (part.value.end?.finalImage) image = whole;
      } else {
        value.requireComplete();
        end = part.case === "end" ? part.value : undefined; // an event reports progress
      }
    }
  } finally {
    call.cancel(); // grpc-js does not when the loop is left early
  }
  if (!end) throw new Error("the stream has no end");
  if (end.ending !== images.StreamEnding.COMPLETED || !image?.length) {
    const { error, incompleteDetails, refusal, outputText } = end.response ?? {};
    const reason = error?.message || incompleteDetails?.reason || refusal || outputText;
    throw new Error(`no image: ${images.StreamEnding[end.ending]}: ${reason ?? ""}`);
  }
  return image;
}

/**
 * Converts items, a line of JSON each. The lines are sent as bytes, in a chunk each: one that is
 * not UTF-8 is refused alone. In a string, its bad bytes would be replaced in silence.
 */
export async function* convertLines(
  client: Client,
  lines: Iterable<Uint8Array>,
): AsyncGenerator<conversions.ConversionResult> {
  const call = client.makeBidiStreamRequest(
    ...rpc(conversions.ConversionService.method.convertCalls),
    {},
  );
  const sink: Writable = call;
  const responses: AsyncIterable<conversions.ConvertCallsResponse> = call;
  Readable.from(requests(lines))
    .on("error", (error) => call.destroy(error))
    .pipe(sink);
  const value = new Value();
  try {
    for await (const { results } of responses) {
      for (const result of results) {
        if (result.output.case === "callChunk") {
          const whole = value.add(result.output.value);
          if (!whole) continue;
          const item = fromBinary(ImageGenerationCallSchema, whole);
          result.output = { case: "call", value: item };
        }
        yield result;
      }
    }
    value.requireComplete();
  } finally {
    call.cancel();
  }
}

/** Messages of about 64 KiB. */
function* requests(lines: Iterable<Uint8Array>) {
  let request = create(conversions.ConvertCallsRequestSchema);
  let size = 0;
  for (const data of lines) {
    const end = { size: data.length, sha256: sha256(data) };
    const input = { case: "jsonChunk", value: { data, end } } as const;
    request.conversions.push(create(conversions.ConversionSchema, { input }));
    size += data.length;
    if (size < 65_536) continue;
    yield request;
    request = create(conversions.ConvertCallsRequestSchema);
    size = 0;
  }
  yield request;
}

function sha256(data: Uint8Array): Buffer {
  return createHash("sha256").update(data).digest();
}

/** Part of a value that has arrived. */
class Value {
  #chunks: Uint8Array[] = [];
  #size = 0;

  /** Returns the whole value with its last chunk, and undefined before. */
  add({ offset, data, end }: Chunk): Buffer | undefined {
    if (offset !== this.#size) throw new Error("a chunk is lost");
    this.#chunks.push(data);
    this.#size += data.length;
    if (!end) return undefined;
    const whole = Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#size = 0;
    if (whole.length !== end.size || !sha256(whole).equals(end.sha256))
      throw new Error("the value is damaged");
    return whole;
  }

  requireComplete() {
    if (this.#size) throw new Error("a chunk is lost");
  }
}

/** Returns the message of an error, with the details that came with it. */
export function explain(error: Error | ServiceError): string {
  let text = error.message;
  const [trailer] = "metadata" in error ? error.metadata.get("grpc-status-details-bin") : [];
  if (!(trailer instanceof Buffer)) return text;
  for (const detail of fromBinary(StatusSchema, trailer).details) {
    const info = anyUnpack(detail, details.ErrorInfoSchema);
    if (info) text += `, reason ${info.reason}`;
    for (const { field } of anyUnpack(detail, details.BadRequestSchema)?.fieldViolations ?? [])
      text += `, at ${field}`;
    const retry = anyUnpack(detail, details.RetryInfoSchema);
    if (retry) text += `, retry after ${retry.retryDelay?.seconds} s`;
  }
  return text;
}
// README: end
