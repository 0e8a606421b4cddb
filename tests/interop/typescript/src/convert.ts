// Converts the items of a file, a line each: node dist/convert.js ADDRESS FILE
// README: begin
import { readFileSync } from "node:fs";
import { connect, convertLines, explain } from "./client.js";
import type { ConversionResult } from "./gen/imagecall/v1/conversion_service_pb.js";
import { ErrorReason } from "./gen/imagecall/v1/conversion_error_pb.js";

/** The lines of a file as bytes: a string would lose those that are not UTF-8. */
function* lines(data: Buffer) {
  for (let start = 0; start < data.length; ) {
    const end = data.indexOf("\n", start);
    yield data.subarray(start, end < 0 ? data.length : end);
    start = end < 0 ? data.length : end + 1;
  }
}

function report({ index, output }: ConversionResult) {
  if (output.case === "error") {
    const { reason, pointer, message } = output.value;
    console.log(`${index}: ${ErrorReason[reason]} at ${pointer}: ${message}`);
  } else if (output.case === "call" && output.value.variant.case === "outputImageGenerationCall") {
    const { id, result } = output.value.variant.value;
    const size = result?.kind.case === "image" ? result.kind.value.length : 0;
    console.log(`${index}: ${id}, ${size} bytes`);
  }
}

const [address = "127.0.0.1:50051", file = "items.jsonl"] = process.argv.slice(2);
const client = connect(address);
try {
  for await (const result of convertLines(client, lines(readFileSync(file)))) report(result);
} catch (error) {
  console.error(explain(error as Error));
  process.exitCode = 1;
} finally {
  client.close();
}
// README: end
