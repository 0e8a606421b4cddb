// The checks of tests/interop/README.md.
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  create,
  createRegistry,
  type DescFile,
  type DescMessage,
  type DescMethodUnary,
  equals,
  fromBinary,
  isMessage,
  type JsonValue,
  type MessageInitShape,
  type MessageShape,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import {
  type CallOptions,
  Client,
  credentials,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import {
  BadRequestSchema,
  ErrorInfoSchema,
} from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import {
  Health,
  HealthCheckResponse_ServingStatus,
} from "./gen/health/v1/health_pb.js";
import { ErrorReason } from "./gen/imagecall/v1/conversion_error_pb.js";
import {
  ConversionResultSchema,
  ConversionService,
  file_imagecall_v1_conversion_service,
} from "./gen/imagecall/v1/conversion_service_pb.js";
import { ImageGenerationCallSchema } from "./gen/imagecall/v1/image_generation_call_pb.js";
import {
  file_imagecall_v1_image_generation_service,
  ImageGenerationService,
  type StreamImageResponse,
  StreamImageRequestSchema,
} from "./gen/imagecall/v1/image_generation_service_pb.js";
import { connect, convertLines, rpc, streamImage } from "./client.js";

const [address = "", cases = "", out = "", damaged = ""] = process.argv.slice(2);
const client = connect(address);
const registry = createRegistry(
  ...withImports(file_imagecall_v1_conversion_service),
  ...withImports(file_imagecall_v1_image_generation_service),
);
const wrongId = '{"type":"image_generation_call","id":5}';

function withImports(file: DescFile): DescFile[] {
  return [file, ...file.dependencies.flatMap(withImports)];
}

/** No call waits for ever. */
function within(milliseconds: number): CallOptions {
  return { deadline: Date.now() + milliseconds };
}

function unary<I extends DescMessage, O extends DescMessage>(
  method: DescMethodUnary<I, O>,
  request: MessageInitShape<I>,
  options: CallOptions = within(60_000),
  caller: Client = client,
): Promise<MessageShape<O>> {
  return new Promise((resolve, reject) => {
    caller.makeUnaryRequest(
      ...rpc(method),
      create(method.input, request),
      options,
      (error, response) => {
        if (response) resolve(response);
        else reject(error ?? new Error("no response"));
      },
    );
  });
}

/** A request with orders to the embedded backend. */
function fox(embedded: object) {
  return {
    prompt: "a red fox in the snow",
    extraFields: [{ name: "embedded", json: JSON.stringify(embedded) }],
  };
}

async function check(name: string, run: () => Promise<void>) {
  try {
    await run();
    console.log(`${name}\tok`);
  } catch (error) {
    console.log(`${name}\t${String(error).replace(/\s+/g, " ").slice(0, 300)}`);
  }
}

async function checkCase(name: string) {
  const save = (suffix: string, data: string | Uint8Array) => {
    mkdirSync(join(out, dirname(name)), { recursive: true });
    writeFileSync(join(out, name + suffix), data);
  };
  const path = join(cases, name);
  const expected = JSON.parse(
    readFileSync(`${path}.expected.json`, "utf8"),
  ) as { message: string; fields: JsonValue };
  const schema = registry.getMessage(expected.message);
  assert(schema, `no message ${expected.message}`);
  const message = fromBinary(schema, readFileSync(`${path}.binpb`));
  save(".binpb", toBinary(schema, message));
  if (name.startsWith("items/")) {
    assert(isMessage(message, ImageGenerationCallSchema));
    const { call } = await unary(ConversionService.method.parseCall, {
      json: readFileSync(`${path}.json`, "utf8"),
      variant: basename(dirname(name)),
    });
    assert(call, "ParseCall gave no call");
    save(".parsed.binpb", toBinary(ImageGenerationCallSchema, call));
    const { json } = await unary(ConversionService.method.formatCall, {
      call: message,
    });
    save(".json", json);
  }
  assert.deepEqual(toJson(schema, message), expected.fields);
}

async function checkConvertCalls() {
  const lines = Array.from({ length: 10_000 }, (_, n) =>
    Buffer.from(
      n === 5_000
        ? wrongId
        : `{"type":"image_generation_call","id":"ig_${n}","result":"aGk="}`,
    ),
  );
  let index = 0;
  for await (const result of convertLines(client, lines)) {
    if (index === 5_000) {
      assert.equal(result.index, index);
      assert(result.output.case === "error", "the bad item is not refused");
      assert.equal(result.output.value.reason, ErrorReason.WRONG_TYPE);
      assert.equal(result.output.value.pointer, "/id");
    } else {
      const expected = create(ConversionResultSchema, {
        index,
        output: {
          case: "call",
          value: {
            variant: {
              case: "outputImageGenerationCall",
              value: {
                id: `ig_${index}`,
                result: { kind: { case: "image", value: Buffer.from("hi") } },
              },
            },
          },
        },
      });
      assert(
        equals(ConversionResultSchema, result, expected),
        `item ${index} is wrong`,
      );
    }
    index++;
  }
  assert.equal(index, 10_000);
}

async function checkStreamImage() {
  const image = await streamImage(client, fox({ image_bytes: 20_000_000 }));
  assert.equal(image.length, 20_000_000);
}

async function checkErrorDetails() {
  const call = unary(ConversionService.method.parseCall, { json: wrongId });
  await assert.rejects(call, (error: ServiceError) => {
    const [trailer] = error.metadata.get("grpc-status-details-bin");
    const { details } = fromBinary(StatusSchema, trailer as Buffer);
    const [violation] = details.flatMap(
      (any) => anyUnpack(any, BadRequestSchema)?.fieldViolations ?? [],
    );
    const [info] = details.flatMap(
      (any) => anyUnpack(any, ErrorInfoSchema) ?? [],
    );
    assert.deepEqual(
      [error.code, violation?.field, info?.reason, info?.domain],
      [status.INVALID_ARGUMENT, "/id", "WRONG_TYPE", "imagecall"],
    );
    return true;
  });
}

async function checkDeadline() {
  const start = Date.now();
  const call = unary(
    ImageGenerationService.method.generateImage,
    { request: fox({ delay_seconds: 60 }) },
    within(500),
  );
  await assert.rejects(call, { code: status.DEADLINE_EXCEEDED });
  assert(Date.now() - start < 2_000, "the deadline came late");
}

async function checkCancellation() {
  const call = client.makeServerStreamRequest(
    ...rpc(ImageGenerationService.method.streamImage),
    create(StreamImageRequestSchema, {
      request: fox({ image_bytes: 20_000_000 }),
    }),
    within(60_000),
  );
  const responses: AsyncIterable<StreamImageResponse> = call;
  const read = async () => {
    for await (const { part } of responses)
      if (part.case === "chunk") call.cancel();
  };
  await assert.rejects(read, { code: status.CANCELLED });
  await streamImage(client, fox({}));
}

/** Calls a server that answers for its health once the stream is cancelled. */
async function checkCancellationWhenDamaged() {
  const other = connect(damaged);
  try {
    await assert.rejects(streamImage(other, fox({})), {
      message: "a chunk is lost",
    });
    await checkHealth(other);
  } finally {
    other.close();
  }
}

/** Generates images at once over a new connection. */
async function checkManyCalls() {
  const other = new Client(address, credentials.createInsecure(), {
    "grpc.use_local_subchannel_pool": 1,
  });
  const request = { request: fox({ delay_seconds: 0.1 }) };
  const { generateImage } = ImageGenerationService.method;
  try {
    await Promise.all(
      Array.from({ length: 1_000 }, () =>
        unary(generateImage, request, within(60_000), other),
      ),
    );
  } finally {
    other.close();
  }
}

async function checkHealth(caller: Client = client) {
  const request = { service: "imagecall.v1.ImageGenerationService" };
  const { check } = Health.method;
  const health = await unary(check, request, within(20_000), caller);
  assert.equal(health.status, HealthCheckResponse_ServingStatus.SERVING);
}

const paths = readdirSync(cases, { encoding: "utf8", recursive: true });
for (const path of paths.sort()) {
  if (!path.endsWith(".binpb")) continue;
  const name = path.slice(0, -".binpb".length);
  await check(name, () => checkCase(name));
}
await check("ConvertCalls", checkConvertCalls);
await check("StreamImage", checkStreamImage);
await check("error details", checkErrorDetails);
await check("deadline", checkDeadline);
await check("cancellation", checkCancellation);
await check("cancellation when damaged", checkCancellationWhenDamaged);
await check("many calls", checkManyCalls);
await check("health", () => checkHealth());
client.close();
