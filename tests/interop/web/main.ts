/** Calls the server whose address the query has (?server=http://HOST:PORT), and says what came of it. */

import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { BadRequestSchema, ErrorInfoSchema } from "./dist/gen/google/rpc/error_details_pb";
import { ConversionService } from "./dist/gen/imagecall/v1/conversion_service_pb";
import { ImageGenerationStatus } from "./dist/gen/imagecall/v1/image_generation_status_pb";
import { connect, streamImage } from "./client";

const LARGE = 20_000_000;
const LARGE_REQUEST = {
  extraFields: [{ name: "embedded", json: `{"image_bytes":${LARGE}}` }],
  prompt: "a fox",
};
const SLOW_REQUEST = {
  extraFields: [{ name: "embedded", json: '{"delay_seconds":60}' }],
  prompt: "a fox",
};

const server = new URLSearchParams(location.search).get("server") ?? "http://127.0.0.1:8081";
const images = connect(server);
const conversions = createClient(ConversionService, createGrpcWebTransport({ baseUrl: server }));

function expect(what: string, is: unknown, wanted: unknown): void {
  if (is !== wanted) throw new Error(`${what} is ${String(is)} instead of ${String(wanted)}`);
}

async function failure(call: Promise<unknown>, code: Code): Promise<ConnectError> {
  const error = await call.then(
    () => new ConnectError("it succeeded", Code.Unknown),
    (reason: unknown) => ConnectError.from(reason),
  );
  if (error.code !== code) throw error;
  return error;
}

function detail<Desc extends DescMessage>(error: ConnectError, schema: Desc): MessageShape<Desc> {
  const [found] = error.findDetails(schema);
  if (!found) throw new Error(`there is no ${schema.typeName}`);
  return found;
}

const checks: Record<string, () => Promise<void>> = {
  async ParseCall() {
    const json =
      '{"type":"image_generation_call","id":"ig_1","result":"aGk=","status":"completed","seed":1.50}';
    const { call } = await conversions.parseCall({ json });
    if (call?.variant.case !== "outputImageGenerationCall")
      throw new Error(`it is ${call?.variant.case}`);
    const item = call.variant.value;
    expect("id", item.id, "ig_1");
    expect("status", item.status, ImageGenerationStatus.COMPLETED);
    expect("seed", item.extraFields.find(({ name }) => name === "seed")?.json, "1.50");
    const result = item.result?.kind;
    expect("result", result?.case === "image" && new TextDecoder().decode(result.value), "hi");
  },

  async "error details"() {
    const call = conversions.parseCall({
      json: '{"type":"image_generation_call","id":5}',
    });
    const error = await failure(call, Code.InvalidArgument);
    expect("field", detail(error, BadRequestSchema).fieldViolations[0]?.field, "/id");
    expect("reason", detail(error, ErrorInfoSchema).reason, "WRONG_TYPE");
    expect("domain", detail(error, ErrorInfoSchema).domain, "imagecall");
  },

  async StreamImage() {
    expect("size", (await streamImage(images, LARGE_REQUEST)).size, LARGE);
  },

  async deadline() {
    const begin = performance.now();
    await failure(
      images.generateImage({ request: SLOW_REQUEST }, { timeoutMs: 500 }),
      Code.DeadlineExceeded,
    );
    expect("in time", performance.now() - begin < 2000, true);
  },

  async cancellation() {
    const controller = new AbortController();
    const { signal } = controller;
    const cancelled = async (): Promise<void> => {
      for await (const { part } of images.streamImage({ request: LARGE_REQUEST }, { signal })) {
        if (part.case === "chunk") controller.abort();
      }
    };
    await failure(cancelled(), Code.Canceled);
    expect("size", (await streamImage(images, LARGE_REQUEST)).size, LARGE);
  },
};

for (const [name, check] of Object.entries(checks)) {
  const said = await check().then(
    () => "ok",
    (reason: unknown) => String(reason).replaceAll(/\s+/g, " "),
  );
  document.querySelector("pre")?.append(`${name}\t${said}\n`);
}
document.title = "done";
