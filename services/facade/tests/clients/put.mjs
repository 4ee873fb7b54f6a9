// PUTs each file named behind the URL to URL/<number> and GETs it again, by fetch, which is undici; prints both statuses
// and whether the same came back.
import { readFileSync } from "node:fs";

const [url, ...files] = process.argv.slice(2);
for (const [index, name] of files.entries()) {
  const value = readFileSync(name);
  const target = `${url}/${index + 1}`;
  const put = await fetch(target, { method: "PUT", body: value });
  await put.arrayBuffer();
  const get = await fetch(target);
  const content = Buffer.from(await get.arrayBuffer());
  console.log(put.status, get.status, content.equals(value));
}
