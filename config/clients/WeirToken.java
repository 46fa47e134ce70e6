// A token for Weir's `sts` validator, with the AWS SDK for Java 2: hand it to the PostgreSQL driver as the password, over TLS.
// Needs software.amazon.awssdk:auth. Nothing is sent anywhere to make it, and it lives for 15 minutes.

import java.net.URI;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.http.SdkHttpMethod;
import software.amazon.awssdk.http.SdkHttpRequest;
import software.amazon.awssdk.http.auth.aws.signer.AwsV4FamilyHttpSigner;
import software.amazon.awssdk.http.auth.aws.signer.AwsV4HttpSigner;

public final class WeirToken {
    public static String weirToken(String user, String weirId, String region) {
        var escaped = URLEncoder.encode(user, StandardCharsets.UTF_8).replace("+", "%20").replace("*", "%2A").replace("%7E", "~");
        var request = SdkHttpRequest.builder().method(SdkHttpMethod.GET)
                .uri(URI.create("https://sts." + region + ".amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15"))
                .putHeader("x-weir-id", weirId).putHeader("x-weir-user", escaped).build();
        var signed = AwsV4HttpSigner.create().sign(sign -> sign.identity(DefaultCredentialsProvider.create().resolveCredentials())
                .request(request)
                .putProperty(AwsV4HttpSigner.SERVICE_SIGNING_NAME, "sts")
                .putProperty(AwsV4HttpSigner.REGION_NAME, region)
                .putProperty(AwsV4HttpSigner.AUTH_LOCATION, AwsV4FamilyHttpSigner.AuthLocation.QUERY_STRING)
                .putProperty(AwsV4HttpSigner.EXPIRATION_DURATION, Duration.ofSeconds(900)));
        var url = signed.request().getUri().toString().getBytes(StandardCharsets.UTF_8);
        return "weir-sts-v1." + Base64.getUrlEncoder().withoutPadding().encodeToString(url);
    }
}
